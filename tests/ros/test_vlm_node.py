"""vlm_node as a process: answers about a picture sent along, about the camera's newest, and what it refuses."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

import rclpy
from edgevlm_msgs.srv import Ask
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from edgevlm.load import load_chat
from edgevlm_ros.processes import Processes, environment, free_domain

HERE = Path(__file__).parent
CHAT = HERE.parent / "compat" / "format_1_2" / "chat"


class Asker:
    """A node that asks, shows pictures and keeps what the periodic topics say."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("asker", context=self.context)
        self.client = self.node.create_client(Ask, "ask")
        self.camera = self.node.create_publisher(Image, "image_raw", 5)
        self.decisions: list[str] = []
        self.answers: list[str] = []
        self.node.create_subscription(String, "answer", lambda message: self.answers.append(message.data), 10)
        self.node.create_subscription(String, "decision", lambda message: self.decisions.append(message.data), 10)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def ask(self, text: str, picture: bytes = b"", tokens: int = 0, timeout_s: float = 10.0) -> Ask.Response:
        assert self.client.wait_for_service(timeout_s)
        request = Ask.Request(text=text, image=CompressedImage(format="png", data=picture), max_new_tokens=tokens)
        future = self.client.call_async(request)
        wait_until(future.done, timeout_s)
        return future.result()

    def show(self, colour: tuple[int, int, int]) -> None:
        rgb = np.full((6, 8, 3), colour, np.uint8)
        message = Image(height=6, width=8, encoding="bgr8", step=24, data=rgb[:, :, ::-1].tobytes())
        message.header.stamp = self.node.get_clock().now().to_msg()
        message.header.frame_id = "eye"
        self.camera.publish(message)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        self.thread.join()


def wait_until(true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Picture.new("RGB", (5, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def asker(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    parameters = {"autostart": True, "question": "what colour is it", "period_s": 0.1, "choices": ["red", "blue"]}
    with Processes(tmp_path_factory.mktemp("vlm"), environment(domain)) as processes:
        processes.start("vlm", HERE / "colour_chat.py", parameters=parameters)
        asker = Asker(domain)
        try:
            wait_until(lambda: asker.ask("ready?", png((9, 9, 200))).success, 20)
            yield asker
        finally:
            asker.close()


def test_it_answers_about_the_picture_that_came_with_the_question(asker: Asker) -> None:
    for colour, name in (((250, 3, 3), "red"), ((3, 250, 3), "green"), ((3, 3, 250), "blue")):
        answer = asker.ask("what colour is it", png(colour))
        assert (answer.success, answer.text) == (True, f"it is {name}")
    assert len(asker.ask("what colour is it", png((250, 0, 0)), tokens=1).token_ids) == 1


def test_without_a_picture_it_looks_at_the_cameras_newest_and_decides_by_itself(asker: Asker) -> None:
    for colour, name in (((250, 3, 3), "red"), ((3, 3, 250), "blue"), ((3, 250, 3), "")):
        asker.decisions.clear()

        def decided(answered: str = name, colour: tuple[int, int, int] = colour) -> bool:
            asker.show(colour)
            return answered in asker.decisions

        wait_until(decided)
    asker.show((250, 3, 3))
    wait_until(lambda: asker.ask("what colour is it").text == "it is red")
    assert asker.ask("what colour is it").header.frame_id == "eye"


@pytest.mark.parametrize(
    ("text", "picture", "why"),
    [
        ("", b"", "expected a question"),
        ("what", b"no picture at all", "expected JPEG or PNG"),
        ("crash please", png((1, 2, 3)), "RuntimeError: the model broke"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(asker: Asker, text: str, picture: bytes, why: str) -> None:
    answer = asker.ask(text, picture)
    assert not answer.success and why in answer.message and answer.text == ""
    assert asker.ask("and now", png((250, 0, 0))).success, "the node goes on"


def test_questions_at_the_same_time_are_all_answered_and_too_many_are_refused(asker: Asker) -> None:
    request = Ask.Request(text="slowly", image=CompressedImage(format="png", data=png((0, 250, 0))))
    futures = [asker.client.call_async(request) for _ in range(9)]
    wait_until(lambda: all(future.done() for future in futures), 20)
    answers: list[Any] = [future.result() for future in futures]
    assert all(answer.text == "it is green" for answer in answers if answer.success)
    refused = [answer.message for answer in answers if not answer.success]
    assert 2 <= len(refused) <= 5 and all("waiting already" in message for message in refused)


def test_a_real_bundle_says_what_it_says_without_ros(tmp_path: Path) -> None:
    domain = free_domain()  # the node of the other tests serves the same name
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    buffer = io.BytesIO()
    Picture.fromarray(picture).save(buffer, "PNG")
    with load_chat(CHAT) as chat:
        expected = chat.ask(image=picture, text="What is it?", max_new_tokens=6)
    with Processes(tmp_path / "logs", environment(domain)) as processes:
        processes.start("vlm", "edgevlm_ros.vlm_node", parameters={"autostart": True, "bundle": str(CHAT)})
        asker = Asker(domain)
        try:
            wait_until(lambda: asker.ask("ready?", buffer.getvalue(), tokens=1).success, 20)
            answer = asker.ask("What is it?", buffer.getvalue(), tokens=6)
            assert (answer.text, tuple(answer.token_ids)) == (expected.text, expected.token_ids) and answer.success
            refused = asker.ask("What is <image>?", buffer.getvalue())
            assert not refused.success and "PromptError" in refused.message
        finally:
            asker.close()


def test_a_model_that_captions_pictures_needs_no_text(tmp_path: Path) -> None:
    from support import asker as makers

    domain, bundle = free_domain(), makers.chat(tmp_path / "bundle")
    with load_chat(bundle) as chat:
        picture = np.asarray(Picture.open(io.BytesIO(png((9, 200, 90)))))
        expected = chat.ask(image=picture, max_new_tokens=6)
        other = chat.ask(image=np.full((6, 8, 3), (250, 3, 3), np.uint8), max_new_tokens=6)
    parameters = {"autostart": True, "bundle": str(bundle), "period_s": 0.1, "max_new_tokens": 6}
    with Processes(tmp_path / "logs", environment(domain)) as processes:
        processes.start("vlm", "edgevlm_ros.vlm_node", parameters=parameters)
        asker = Asker(domain)
        try:
            wait_until(lambda: asker.ask("", png((9, 200, 90)), tokens=1).success, 20)
            answer = asker.ask("", png((9, 200, 90)), tokens=6)
            assert tuple(answer.token_ids) == expected.token_ids

            def captioned() -> bool:
                asker.show((250, 3, 3))
                return bool(asker.answers)

            wait_until(captioned)
            assert set(asker.answers) == {other.text}
        finally:
            asker.close()


def test_a_bundle_of_another_task_is_refused(domain: int, tmp_path: Path) -> None:
    from support.tiny import mono

    bundle = mono(tmp_path / "policy")
    with Processes(tmp_path / "logs", environment(domain)) as processes:
        processes.start("vlm", "edgevlm_ros.vlm_node", parameters={"autostart": True, "bundle": str(bundle)})
        wait_until(lambda: "this one is a 'policy'" in processes.log("vlm"), 20)
