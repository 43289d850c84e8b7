"""Questions about pictures: a service `ask`, and an answer (or a decision) at regular times.

Diagnostics: `chat` with the keys asked, answered, failed, busy_ms, last_error; `camera` with received, refused, age_ms.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything that takes long to import
    from edgevlm_ros.shutdown import leave_at_once

    leave_at_once()

import math
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from edgevlm_msgs.srv import Ask
from numpy.typing import NDArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from edgevlm.errors import ContractError, EdgevlmError
from edgevlm.images.encodings import check_encoding, decode, view
from edgevlm.load import load_chat
from edgevlm.rosmsg.camera import reorder
from edgevlm.tasks import Answer, Chat
from edgevlm_ros.lifecycle_node import STEP_END_S, Report, ShellNode, run
from edgevlm_ros.parameters import Parameters
from edgevlm_ros.qos import RELIABLE, SENSOR, advertise, listen
from edgevlm_ros.stamps import to_ns
from edgevlm_ros.vlm_parameters import ITEMS

_WAITING = 4  # questions that may wait for the model; fewer than the 10 requests that a service keeps


@dataclass
class _Question:
    image: NDArray[np.uint8]
    text: str
    max_new_tokens: int
    done: Callable[[Answer | None, str, float], None]  # answer, what went wrong, milliseconds


def decision(text: str, choices: Sequence[str]) -> str:
    """The one choice that an answer names as whole words, in any case; empty when it names none or several."""
    words = f" {' '.join(''.join(c if c.isalnum() else ' ' for c in text.lower()).split())} "
    named = [choice for choice in choices if choice and f" {' '.join(choice.lower().split())} " in words]
    return named[0] if len(named) == 1 else ""


class VlmNode(ShellNode):
    """Asks the model from a thread of its own, so that pictures and questions keep coming in."""

    def __init__(self, open_model: Callable[[str], Chat] = load_chat) -> None:
        super().__init__("vlm_node")
        self._open = open_model
        self._settings = Parameters(self, ITEMS, frozen=lambda: self.active)
        self._chat: Chat | None = None
        self._frame: Image | CompressedImage | None = None
        self._questions: queue.Queue[_Question | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._cancel, self._stuck = threading.Event(), False
        self._counts: Counter[str] = Counter()
        self._error, self._busy_ms = "", math.nan
        self._timer: Any = None
        self._subscription: Any = None
        self._answers = advertise(self, String, "answer", RELIABLE)
        self._decisions = advertise(self, String, "decision", RELIABLE)
        # A question that waits for its answer must not keep pictures and other questions out.
        self.create_service(Ask, "ask", self._serve, callback_group=ReentrantCallbackGroup())
        self.begin(self._settings)

    def configure(self) -> None:
        if self._settings["transport"] not in ("raw", "compressed"):
            raise ContractError(f"transport: expected raw or compressed, got {self._settings['transport']!r}")
        self._chat = self._open(self._settings["bundle"])

    def activate(self) -> None:
        compressed = self._settings["transport"] == "compressed"
        kind, topic = (CompressedImage, "image_raw/compressed") if compressed else (Image, "image_raw")
        self._subscription = listen(self, kind, topic, self._keep, SENSOR)
        if self._stuck:
            raise ContractError("the model has not ended an answer of the activation before; restart the process")
        self._questions, self._cancel = queue.Queue(_WAITING), threading.Event()
        self._thread = threading.Thread(target=self._work, args=(self._questions,), name="edgevlm-chat", daemon=True)
        self._thread.start()
        if self._settings["period_s"] > 0:
            self._timer = self.create_timer(self._settings["period_s"], self._ask_again)

    def deactivate(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
        self._timer = self._subscription = self._frame = None
        if self._thread is not None:
            while not self._questions.empty():
                question = self._questions.get_nowait()
                if question is not None:
                    question.done(None, "the node was deactivated", 0.0)
            self._cancel.set()
            self._questions.put(None)
            self._thread.join(STEP_END_S)
            self._stuck = self._thread.is_alive()
            self._thread = None
            if self._stuck:
                self.get_logger().error(f"the model still answers after {STEP_END_S:g} s; restart the process")

    def cleanup(self) -> None:
        if self._chat is not None and not self._stuck:  # an engine must not be closed while it runs
            self._chat.close()
        self._chat = None

    def report(self) -> list[Report]:
        keys = ("asked", "answered", "failed")
        figures = {**{key: self._counts[key] for key in keys}, "busy_ms": self._busy_ms, "last_error": self._error}
        age_ms = (self.now_ns() - to_ns(self._frame.header.stamp)) / 1e6 if self._frame else math.nan
        camera = {"received": self._counts["received"], "refused": self._counts["refused"], "age_ms": age_ms}
        stale = self.active and not age_ms <= self._settings["max_age_s"] * 1e3
        return [
            ("chat", "error" if self._error else "ok", self._error or "ok", figures),
            ("camera", "warn" if stale else "ok", "no fresh frame" if stale else "ok", camera),
        ]

    def _keep(self, frame: Image | CompressedImage) -> None:
        self._counts["received"] += 1
        self._frame = frame

    def _picture(self, picture: CompressedImage) -> tuple[NDArray[np.uint8], Header]:
        """The picture that came with the question, or the camera's newest, as RGB.

        Raises:
            ContractError: there is none, it is too old, or no picture.
        """
        if len(picture.data):
            return decode(bytes(picture.data), "rgb8"), picture.header
        frame = self._frame
        if frame is None:
            raise ContractError("ask: no picture was given and none came from the camera; check the image topic")
        age_s = (self.now_ns() - to_ns(frame.header.stamp)) / 1e9
        if age_s > self._settings["max_age_s"]:
            raise ContractError(f"ask: the camera's newest picture is {age_s:.1f} s old; check the camera")
        if isinstance(frame, CompressedImage):
            return decode(bytes(frame.data), "rgb8"), frame.header
        pixels = view(memoryview(frame.data), frame.height, frame.width, frame.encoding, frame.step)
        return reorder(pixels, check_encoding(frame.encoding), "rgb8"), frame.header

    def _put(
        self,
        text: str,
        picture: CompressedImage,
        max_new_tokens: int,
        done: Callable[[Answer | None, str, float], None],
    ) -> Header:
        """Hand a question to the model's thread; the header of the picture it is about.

        Raises:
            ContractError: not active, no text, no picture, or too many questions are waiting.
        """
        if not self.active:
            raise ContractError("ask: the node is not active; activate it first")
        if not text.strip() and (self._chat is None or self._chat.needs_text):
            raise ContractError("ask: expected a question, got an empty text")
        self._counts["asked"] += 1
        try:
            image, header = self._picture(picture)
        except EdgevlmError:
            self._counts["refused"] += 1
            raise
        try:
            self._questions.put_nowait(_Question(image, text, max_new_tokens, done))
        except queue.Full:
            raise ContractError(f"ask: {_WAITING} questions are waiting already; ask more slowly") from None
        return header

    async def _serve(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        answered: Future = Future()
        try:
            tokens = request.max_new_tokens or self._settings["max_new_tokens"]
            response.header = self._put(
                request.text, request.image, tokens, lambda *outcome: self._resolve(answered, outcome)
            )
        except EdgevlmError as error:
            response.message = str(error)
            return response
        answer, problem, response.duration_ms = await answered
        response.success, response.message = answer is not None, problem
        if answer is not None:
            response.text, response.token_ids = answer.text, list(answer.token_ids)
        return response

    def _resolve(self, answered: Future, outcome: tuple[Answer | None, str, float]) -> None:
        answered.set_result(outcome)
        if self.executor is not None:
            self.executor.wake()  # it may be waiting for messages

    def _ask_again(self) -> None:
        question = self._settings["question"]
        if not self._questions.empty():
            return  # the last one has not been answered yet
        if not question and (self._chat is None or self._chat.needs_text):
            return
        try:
            self._put(question, CompressedImage(), self._settings["max_new_tokens"], self._publish)
        except EdgevlmError as error:
            self._error = str(error)

    def _publish(self, answer: Answer | None, problem: str, _: float) -> None:
        if answer is None:
            return
        self._answers.publish(String(data=answer.text))
        choices = [choice for choice in self._settings["choices"] if choice]
        if choices:
            self._decisions.publish(String(data=decision(answer.text, choices)))

    def _work(self, questions: queue.Queue[_Question | None]) -> None:
        while (question := questions.get()) is not None:
            assert self._chat is not None
            started_ns, answer, problem = self.steady_ns(), None, ""
            try:
                answer = self._chat.ask(
                    image=question.image,
                    text=question.text,
                    max_new_tokens=question.max_new_tokens,
                    cancel=self._cancel,
                )
                if self._cancel.is_set():
                    answer, problem = None, "the node was deactivated"
                self._counts["answered"] += answer is not None
            except Exception as error:  # noqa: BLE001 - the boundary to a model: the node goes on
                self._counts["failed"] += 1
                problem = f"{type(error).__name__}: {error}"
            self._error, self._busy_ms = problem, (self.steady_ns() - started_ns) / 1e6
            question.done(answer, problem, self._busy_ms)


def main() -> None:
    """Run the node."""
    run(VlmNode)


if __name__ == "__main__":
    main()
