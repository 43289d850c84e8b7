"""A chat template as Jinja runs it: a stranger's program, in a sandbox, in the process that turns it into data.

It sees messages and gives text, and nothing else: a sandbox without attributes, imports and methods that change
things, filters and methods of a short list, and a budget, which ends most that would not end before the process is
killed. The language is that of upstream (transformers' `apply_chat_template`): blocks trimmed, `break` and `continue`,
`{% generation %}`, `raise_exception`, `tojson`; but for `strftime_now`, which is not there: a prompt must be the same
every day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgevlm.errors import BundleError, PromptError, require
from edgevlm.text.sandbox import Budget, Spent, open_sandbox

Message = Mapping[str, Any]


class SandboxedTemplate:
    """One template, for the one thread of the process that runs it: its budget is counted while it renders.

    Raises:
        DependencyError: jinja2 is not installed.
        BundleError: the template does not parse, or uses what the sandbox does not have.
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        self._jinja = require("jinja2", extra="chat")
        for module in ("sandbox", "ext", "nodes", "visitor"):
            require(f"jinja2.{module}", extra="chat")
        self._budget = Budget(len(source))
        self._variables = dict(variables)
        self._render = self._guarded(lambda: open_sandbox(self._jinja, source, self._budget), BundleError)

    def render(self, messages: Sequence[Message]) -> str:
        """The dialogue as text, up to where the model's answer begins.

        Raises:
            PromptError: the template refuses the dialogue, or does too much.
        """
        self._budget.begin()
        variables: dict[str, Any] = {"tools": None, "documents": None, **self._variables, "messages": list(messages)}
        variables["add_generation_prompt"] = True
        text: str = self._guarded(lambda: self._render(variables), PromptError)
        return text

    def _guarded(self, work: Callable[[], Any], kind: type[BundleError] | type[PromptError]) -> Any:
        try:
            return work()
        except Spent as error:
            raise kind(str(error)) from error
        except self._jinja.TemplateError as error:
            raise kind(" ".join(str(error).split())) from error
        except Exception as error:  # a template can raise whatever Python can: types, keys, recursion
            got = f"{type(error).__name__}: {error}"
            raise kind(f"it fails with {got:.200}") from error
