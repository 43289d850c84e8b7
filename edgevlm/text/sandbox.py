"""A chat template as Jinja runs it: a stranger's program, in a sandbox, in the process that turns it into data.

It sees messages and gives text, and nothing else: a sandbox without attributes, imports and methods that change
things, filters and methods of a short list. Jinja keeps a template from Python's insides; it does not keep it from
filling the memory or the day. Here every loop, call, literal, filter and concatenation is charged to one budget,
whatever its size would be, before or right after it; that ends most templates that would not end before the process is
killed. The language is that of upstream (transformers' `apply_chat_template`): blocks trimmed, `break` and `continue`,
`{% generation %}`, `raise_exception`, `tojson`; but for `strftime_now`, which is not there: a prompt must be the same
every day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import islice
from typing import Any, NoReturn

from edgevlm.errors import BundleError, PromptError, require
from edgevlm.manifest.text import DialogueSpec
from edgevlm.text import confined
from edgevlm.text.derivation import NotDerivable, Refused, compare, derive, frozen, literals
from edgevlm.text.sample_dialogues import sample_dialogues

LARGEST = 1 << 21  # characters and items of one value, and of the output
WORK = 1 << 26  # characters and items that all values together may have
ITEM = 32  # an item of a list counts as so many characters: it takes as much memory and time
STEP = 1 << 10  # a turn of a loop, or a call, counts as this at least
NUMBER = 1 << 53
TURNS = 100_000  # of range()

FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length"),
    *("list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr"),
    *("sort", "string", "title", "trim", "unique", "upper"),
)
TESTS = (
    *("boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "in", "integer", "iterable"),
    *("lower", "mapping", "ne", "none", "number", "odd", "sequence", "string", "true", "undefined", "upper", "=="),
    *("!=", "lt", "gt", "le", "ge", "<", ">", "<=", ">=", "lessthan", "greaterthan"),
)
METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        (
            *("capitalize", "count", "endswith", "find", "isalnum", "isalpha", "isdigit", "islower", "isspace"),
            *("isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind"),
            *("rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"),
        )
    ),
    dict: frozenset(("get", "items", "keys", "values")),
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
}
GLOBALS = ("dict", "namespace")

Message = Mapping[str, Any]


class Spent(Exception):
    """A template did more than any honest one needs, or something that none does."""


class Budget:
    """What one rendering may still do. A turn or a call costs the length of the source: so much can it write."""

    def __init__(self, source: int) -> None:
        self._step = max(source, STEP)
        self.begin()

    def begin(self) -> None:
        """A new rendering."""
        self._left = WORK

    def charge(self, amount: int) -> None:
        """Take `amount` off. Raises Spent."""
        self._left -= amount
        if self._left < 0:
            raise Spent("it loops, calls or writes more than any dialogue needs")

    def step(self, times: int = 1) -> None:
        """One turn of a loop, or one call. Raises Spent."""
        self.charge(times * self._step)

    def value(self, value: Any) -> Any:
        """`value` itself, if it is of plain types and not large; its size is taken off. Raises Spent."""
        size = _size(value, LARGEST)
        if size > LARGEST:
            raise Spent(f"a value of more than {LARGEST} characters or items")
        self.charge(size)
        return value


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


def _size(value: Any, limit: int) -> int:
    """Characters in `value` and in all that it holds, and its items as `ITEM`, counted until more than `limit`."""
    total, waiting = 0, [value]
    while waiting and total <= limit:
        item = waiting.pop()
        total += ITEM
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set)):
            waiting += item
        elif isinstance(item, int) and abs(item) > NUMBER:
            raise Spent(f"a number over {NUMBER}")
    return total


def open_sandbox(jinja: Any, source: str, budget: Budget) -> Callable[[Mapping[str, Any]], str]:
    """The template as a function of its variables; `jinja` is the package. Raises what Jinja raises, and Spent."""
    environment = _environment(jinja, budget)
    tree = _rewriter(jinja).visit(environment.parse(source))
    template = environment.from_string(tree)

    def render(variables: Mapping[str, Any]) -> str:
        return "".join(_written(template.generate(dict(variables)), budget))

    return render


def parse(jinja: Any, source: str) -> Any:
    """The tree of a template. Raises what Jinja raises."""
    return _environment(jinja, Budget(len(source))).parse(source)


def _written(parts: Any, budget: Budget) -> Any:
    total = 0
    for part in parts:
        total += len(part)
        if total > LARGEST:
            raise Spent(f"an output of more than {LARGEST} characters")
        yield part


def _environment(jinja: Any, budget: Budget) -> Any:
    class Narrow(jinja.sandbox.ImmutableSandboxedEnvironment):  # type: ignore[misc]
        intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operation(operator, left, right)
            return budget.value(super().call_binop(context, operator, left, right))

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            methods = _methods(obj)
            own = type(obj).__module__.startswith("jinja2.")  # loops and macros
            return (own if methods is None else attr in methods) and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> None:
            """Jinja would let str.format through, under guard; no chat template needs it."""

        def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
            budget.step()
            for value in (getattr(obj, "__self__", None), *args):
                if isinstance(value, (str, list, tuple, dict)):
                    budget.value(value)
            _check_method(obj, args)
            return budget.value(super().call(context, obj, *args, **kwargs))

    environment = Narrow(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _generation(jinja)],
        finalize=lambda value: budget.value(_plain(jinja, value)),
    )
    environment.globals = {name: environment.globals[name] for name in GLOBALS} | {
        "range": _range,
        "raise_exception": lambda message: _refuse(jinja, message),
    }
    filters = {name: environment.filters[name] for name in FILTERS}
    filters |= {"join": _join, "replace": _replace, "round": _round, "safe": str, "tojson": _tojson}
    environment.filters = {name: _counted(work, budget) for name, work in filters.items()}
    environment.filters |= {_TURNS: lambda items: _turns(budget, items), _JOINED: lambda parts: _joined(budget, parts)}
    environment.filters[_VALUE] = budget.value
    environment.tests = {name: _counted(environment.tests[name], budget) for name in TESTS}
    return environment


_TURNS, _JOINED, _VALUE = "turns of a loop", "joined", "a value"  # filters that no template can name: two have spaces


def _methods(owner: Any) -> frozenset[str] | None:
    return next((names for kind, names in METHODS.items() if isinstance(owner, kind)), None)


def _rewriter(jinja: Any) -> Any:
    """What puts the budget into a template's tree, and refuses the statements that no chat template needs."""
    nodes = jinja.nodes
    refused = (nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends, nodes.Block, nodes.EvalContextModifier)

    def through(filter_name: str, node: Any) -> Any:
        return nodes.Filter(node, filter_name, [], [], None, None, lineno=node.lineno, environment=node.environment)

    class Rewriter(jinja.visitor.NodeTransformer):  # type: ignore[misc]
        def generic_visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(node, refused):
                raise jinja.TemplateSyntaxError(f"{type(node).__name__} has no place in it", node.lineno)
            return super().generic_visit(node, *args, **kwargs)

        def visit_For(self, node: Any) -> Any:
            if node.recursive:
                raise jinja.TemplateSyntaxError("recursive loops have no place in it", node.lineno)
            self.generic_visit(node)
            node.iter = through(_TURNS, node.iter)
            return node

        def visit_Concat(self, node: Any) -> Any:
            self.generic_visit(node)
            return through(_JOINED, nodes.List(node.nodes, lineno=node.lineno, environment=node.environment))

        def visit_Compare(self, node: Any) -> Any:
            self.generic_visit(node)
            node.expr = through(_VALUE, node.expr)
            for operand in node.ops:
                operand.expr = through(_VALUE, operand.expr)
            return node

        def visit_Getitem(self, node: Any) -> Any:
            self.generic_visit(node)
            return through(_VALUE, node) if isinstance(node.arg, nodes.Slice) else node

        def visit_List(self, node: Any) -> Any:
            self.generic_visit(node)
            return through(_VALUE, node)

        visit_Dict = visit_List

        def visit_Tuple(self, node: Any) -> Any:
            self.generic_visit(node)
            return through(_VALUE, node) if node.ctx == "load" else node

    return Rewriter()


def _generation(jinja: Any) -> Any:
    """`{% generation %}`: upstream marks with it what a model said; here it is its body."""

    class Generation(jinja.ext.Extension):  # type: ignore[misc]
        tags = frozenset(("generation",))

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja.nodes.Scope(body, lineno=line)

    return Generation


def _counted(work: Callable[..., Any], budget: Budget) -> Callable[..., Any]:
    """A filter or a test that pays for what it is given and what it gives; a generator becomes a list."""

    @wraps(work)  # with Jinja's mark for filters that get the environment
    def paid(*args: Any, **kwargs: Any) -> Any:
        budget.step()
        for value in args:
            if isinstance(value, (str, list, tuple, dict)):
                budget.value(value)
        result = work(*args, **kwargs)
        if isinstance(result, Iterator):
            result = list(islice(result, LARGEST))
        return budget.value(result)

    return paid


def _turns(budget: Budget, items: Any) -> list[Any]:
    turns = []
    for item in items:
        budget.step()
        turns.append(item)
    return turns


def _joined(budget: Budget, parts: list[Any]) -> str:
    if sum(len(part) for part in parts if isinstance(part, str)) > LARGEST:
        raise Spent(f"a text of more than {LARGEST} characters")
    return str(budget.value("".join(map(str, budget.value(parts)))))


def _range(*numbers: int) -> range:
    turns = range(*numbers)
    if len(turns) > TURNS:
        raise Spent(f"a range of more than {TURNS} numbers")
    return turns


def _join(items: Any, between: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        raise Spent("join by an attribute; map() does it")
    parts = [str(item) for item in items]
    _check_length(sum(map(len, parts)) + len(parts) * len(between))
    return between.join(parts)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    _check_replace(str(text), str(old), str(new))
    return str(text).replace(str(old), str(new), count)


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if not isinstance(precision, int) or abs(precision) > 16 or method != "common":
        raise Spent(f"a rounding to {precision!r:.20} places")
    return round(value, precision)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if indent is not None and len(str(indent)) > 1:
        raise Spent(f"an indent of {indent!r:.20}")
    if separators is not None and sum(map(len, separators)) > len(", : "):
        raise Spent(f"separators {separators!r:.20}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _check_method(called: Any, args: tuple[Any, ...]) -> None:
    """Raises Spent for a text's method that would make a text too long."""
    owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
    if name not in (_methods(owner) or (name,)):
        raise Spent(f"a call of {name!r}")
    if not isinstance(owner, str):
        return
    if name == "replace" and len(args) > 1:
        _check_replace(owner, str(args[0]), str(args[1]))
    if name == "join" and args:
        parts = list(args[0])
        _check_length(sum(len(part) for part in parts if isinstance(part, str)) + len(parts) * len(owner))


def _check_replace(text: str, old: str, new: str) -> None:
    _check_length(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """Raises Spent for arithmetic whose result would be large, or is no arithmetic."""
    if operator == "%" and isinstance(left, str):
        raise Spent("'%' on a text")
    if operator == "**" and (
        (isinstance(right, int) and right > 64) or (isinstance(left, int) and abs(left) > 1 << 20)
    ):
        raise Spent("a large power")
    sizes = [len(side) if isinstance(side, (str, list, tuple)) else None for side in (left, right)]
    if operator == "+":
        _check_length(sum(size or 0 for size in sizes))
    if operator == "*":
        for size, other in ((sizes[0], right), (sizes[1], left)):
            if size is not None and isinstance(other, int):
                _check_length(size * other)


def _check_length(length: int) -> None:
    if length > LARGEST:
        raise Spent(f"a text of more than {LARGEST} characters")


def _plain(jinja: Any, value: Any) -> Any:
    """`value`, if it can be written: text, numbers, lists of them, and what is not there, which is nothing."""
    if not isinstance(value, (str, int, float, list, tuple, dict, type(None), jinja.Undefined)):
        raise Spent(f"it writes a {type(value).__name__}, which is no text")
    return value


def _refuse(jinja: Any, message: Any) -> NoReturn:
    raise jinja.TemplateError(f"{message:.200}" if isinstance(message, str) else "it refuses this dialogue")


def main() -> None:
    """Answer the request on standard input: the dialogue, or why there is none."""
    request = confined.request()
    for module in ("jinja2.sandbox", "jinja2.ext", "jinja2.nodes", "jinja2.visitor", "jinja2.meta"):
        require(module, extra="chat")
    confined.limit_self()
    try:
        confined.reply(_answer(**request))
    except MemoryError:
        confined.reply({"refused": "it takes too much memory"})


def _answer(
    source: str,
    variables: Mapping[str, str],
    placeholder: str,
    reserved: Sequence[str],
    check: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The answer; with `check` (`dialogue`, `seed` and `count`) the proof of earlier data on other dialogues."""
    jinja = require("jinja2", extra="chat")
    try:
        template = SandboxedTemplate(source, variables)
    except BundleError as error:
        return {"refused": str(error)}

    def render(messages: list[dict[str, Any]]) -> str:
        try:
            return template.render(messages)
        except PromptError as error:
            raise Refused(str(error)) from error

    tree = parse(jinja, source)
    words = literals(jinja, tree, [placeholder, *reserved, *variables.values()])
    try:
        if check is None:
            dialogue = derive(render, placeholder, words)
            return {"dialogue": dialogue.model_dump(mode="json"), "frozen": frozen(jinja, tree, variables)}
        spec = DialogueSpec.model_validate_json(json.dumps(check["dialogue"]), strict=True)
        dialogues = sample_dialogues(check["seed"], check["count"], words)
        return {"written": compare(spec, render, placeholder, dialogues)}
    except NotDerivable as error:
        return {"refused": str(error)}
