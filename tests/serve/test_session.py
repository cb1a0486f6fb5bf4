"""A session: what it makes of observations, and when an episode starts."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.data.sources.images import decode_image, encode_jpeg
from rt1.errors import ObservationError
from rt1.policy.policy import Policy
from rt1.policy.stepper import PreparedImage
from rt1.serve.session import Effort, Session

DRAWER, CLOSE = "open the drawer", "close the drawer"


def _alone(policy: Policy, images: NDArray[np.uint8], instruction: str = DRAWER) -> list[NDArray[np.float32]]:
    own = policy.new_session()
    own.reset(instruction)
    return [own.act_vector(image) for image in images]


class Answering(Session):
    """A session whose turns are taken at once, one robot alone."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.start, policy.prepare, window=policy.model.config.window)
        self._policy = policy

    def answer(self, observation: Any) -> NDArray[np.float32] | None:
        turn = self.read(observation)
        logits = [self._policy.step([turn.state], [image]) for image in turn.images]
        self.remember(turn, turn.state)
        return self._policy.action_spec.decode_logits(logits[-1])[1] if logits else None


def _check_answer(answer: NDArray[np.float32] | None, action: NDArray[np.float32]) -> None:
    assert answer is not None
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, action[None])


@pytest.mark.parametrize(("image_key", "text_key"), [("image", "instruction"), ("observation/image", "prompt")])
def test_actions_are_those_of_the_policy_itself(
    policy: Policy, images: NDArray[np.uint8], image_key: str, text_key: str
) -> None:
    session = Answering(policy)
    for image, action in zip(images, _alone(policy, images), strict=True):
        _check_answer(session.answer({image_key: image, text_key: DRAWER}), action)


def test_images_instruction_and_memory_show_in_the_actions(policy: Policy, images: NDArray[np.uint8]) -> None:
    drawer, close = np.stack(_alone(policy, images)), np.stack(_alone(policy, images, CLOSE))
    assert (drawer != close).all()
    assert (drawer[1:] != drawer[:-1]).all()
    assert (drawer[1] != _alone(policy, images[1:])[0]).all()


def test_the_instruction_holds_on_and_reset_forgets_the_images(policy: Policy, images: NDArray[np.uint8]) -> None:
    session, alone = Answering(policy), _alone(policy, images)
    _check_answer(session.answer({"image": images[0], "instruction": DRAWER}), alone[0])
    _check_answer(session.answer({"image": images[1], "reset": np.False_}), alone[1])
    assert session.answer({"reset": True}) is None
    _check_answer(session.answer({"image": images[0]}), alone[0])
    _check_answer(session.answer({"image": images[0], "reset": True}), alone[0])
    _check_answer(session.answer({"image": images[1]}), alone[1])


def test_another_instruction_starts_a_new_episode(policy: Policy, images: NDArray[np.uint8]) -> None:
    session = Answering(policy)
    session.answer({"image": images[0], "instruction": DRAWER})
    for image, action in zip(images, _alone(policy, images, CLOSE), strict=True):
        _check_answer(session.answer({"image": image, "instruction": CLOSE}), action)


def test_a_text_embedding_stands_for_its_sentence(policy: Policy, images: NDArray[np.uint8], table: Any) -> None:
    session, embedding = Answering(policy), table.encode([DRAWER])[0]
    for image, action in zip(images, _alone(policy, images), strict=True):
        _check_answer(session.answer({"image": image, "instruction": embedding.astype(np.float64)}), action)


def test_jpeg_bytes_are_their_image(policy: Policy, images: NDArray[np.uint8]) -> None:
    data = [encode_jpeg(image) for image in images]
    session, decoded = Answering(policy), np.stack([decode_image(each) for each in data])
    for each, action in zip(data, _alone(policy, decoded), strict=True):
        _check_answer(session.answer({"image": each, "instruction": DRAWER}), action)


def test_stacked_images_are_an_episode_of_their_own(policy: Policy, images: NDArray[np.uint8]) -> None:
    session, window = Answering(policy), policy.model.config.window
    alone = _alone(policy, images)
    _check_answer(session.answer({"image": images[0], "instruction": DRAWER}), alone[0])
    stacked = session.answer({"image": images[:window][::-1], "instruction": CLOSE})
    _check_answer(stacked, _alone(policy, images[:window][::-1], CLOSE)[-1])
    _check_answer(session.answer({"image": images[1]}), alone[1])


HUGE_JPEG = encode_jpeg(np.zeros((8, 8, 3), np.uint8)).replace(b"\x00\x08\x00\x08\x03", b"\xff\xff\xff\xff\x03")

PROGRESSIVE = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
MANY_SCANS = PROGRESSIVE[:-2] + 2500 * PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2] + b"\xff\xd9"


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([1], "the observation is a list, must be a map"),
        ({}, "there is no instruction yet"),
        ({"instruction": DRAWER}, "has no image, only 'instruction'. Send one as image or observation/image"),
        ({"prompt": DRAWER, "img": 1, "k" * 999: 2}, "has no image, only 'img', 'kkkkk"),
        ({"instruction": DRAWER, "prompt": DRAWER, "reset": True}, "both 'instruction' and 'prompt'"),
        ({"instruction": 7, "reset": True}, "must be a sentence or a float text embedding"),
        ({"instruction": bytes(1000), "reset": True}, "must be a sentence or a float text embedding"),
        ({"instruction": "open " * 101, "reset": True}, "505 characters. It may have 500"),
        ({"instruction": DRAWER, "reset": 1}, "reset is 1, must be true or false"),
        ({"instruction": "open the draw", "reset": True}, "did you mean 'open the drawer'"),
        ({"instruction": np.zeros(7, np.float32), "reset": True}, "Use the encoder it was trained with"),
        ({"instruction": np.full(8, 1e20, np.float32), "reset": True}, "of size 1e+20. At most 10000 is sane"),
        ({"instruction": np.full(8, 1e300), "reset": True}, "not finite. Compute it again"),
        ({"instruction": DRAWER, "image": np.zeros((4, 4), np.uint8)}, "must be uint8 RGB"),
        ({"instruction": DRAWER, "image": np.zeros((4, 4, 3), np.int32)}, "the image is int32"),
        ({"instruction": DRAWER, "image": np.full((4, 4, 3), 255.0, np.float32)}, "float32 of 255..255"),
        ({"instruction": DRAWER, "image": np.full((4, 4, 3), -1.0)}, "float64 of -1..-1"),
        ({"instruction": DRAWER, "image": np.full((4, 4, 3), np.nan)}, "float64 of nan..nan"),
        ({"instruction": DRAWER, "image": np.zeros((4, 4, 4), np.float32)}, "must be uint8 RGB"),
        ({"instruction": DRAWER, "image": np.zeros((0, 4, 3), np.uint8)}, "must be uint8 RGB"),
        ({"instruction": DRAWER, "image": np.zeros((99, 4, 4, 3), np.uint8)}, "99 stacked images were sent"),
        ({"instruction": DRAWER, "image": np.zeros((1, 1 << 25, 3), np.uint8)}, "Send a smaller one"),
        ({"instruction": DRAWER, "image": HUGE_JPEG}, "has 65535x65535 pixels"),
        (
            {"instruction": DRAWER, "image": HUGE_JPEG[:8]},
            "an image of 8 bytes ends within its header. Send a whole JPEG or PNG",
        ),
        ({"instruction": DRAWER, "image": MANY_SCANS}, "2510 scans"),
        ({"instruction": DRAWER, "image": "file.jpg"}, "the image is a str"),
    ],
)
def test_what_cannot_be_acted_on_is_refused_in_one_line(policy: Policy, observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        Answering(policy).answer(observation)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_refused_observation_leaves_the_episode_as_it_was(policy: Policy, images: NDArray[np.uint8]) -> None:
    session, alone = Answering(policy), _alone(policy, images)
    _check_answer(session.answer({"image": images[0], "instruction": DRAWER}), alone[0])
    with pytest.raises(ObservationError):
        session.answer({"image": b"no image", "instruction": CLOSE})
    _check_answer(session.answer({"image": images[1]}), alone[1])


def test_the_effort_of_reading_is_known_before(policy: Policy, images: NDArray[np.uint8]) -> None:
    session, image = Answering(policy), images[0]
    jpeg, large = encode_jpeg(image), encode_jpeg(np.zeros((2049, 2048, 3), np.uint8))
    assert session.effort({"image": image, "prompt": DRAWER}) is Effort.START  # its first instruction
    session.answer({"image": image, "prompt": DRAWER})
    assert session.effort({"image": image, "prompt": DRAWER}) is Effort.NONE
    assert session.effort({"image": image}) is Effort.NONE
    assert session.effort({"image": jpeg}) is Effort.SMALL
    assert session.effort({"image": jpeg[:9]}) is Effort.SMALL
    for start in ({"image": image, "prompt": CLOSE}, {"image": jpeg, "reset": True}, {"reset": 7}):
        assert session.effort(start) is Effort.START
    assert session.effort({"image": np.zeros((3, 512, 512), np.float32)}) is Effort.SMALL
    floats = {"image": np.zeros((3, 512, 513), np.float32)}
    for slow in ({"image": large}, {"image": large, "reset": True}, {"image": images[:2]}, floats):
        assert session.effort(slow) is Effort.LARGE


def test_a_large_image_is_prepared_before_its_step(policy: Policy) -> None:
    session, large = Answering(policy), np.zeros((1025, 1024, 3), np.uint8)
    assert isinstance(session.read({"image": large, "prompt": DRAWER}).images[0], PreparedImage)
    assert isinstance(session.read({"image": large[None], "prompt": DRAWER}).images[0], PreparedImage)
    assert not isinstance(session.read({"image": large[1:]}).images[0], PreparedImage)
    _check_answer(session.answer({"image": large, "reset": True}), _alone(policy, large[None])[0])
    assert session.effort({"image": large}) is Effort.LARGE
    assert session.effort({"image": large[1:]}) is Effort.NONE


def test_case_and_blanks_start_no_new_episode(policy: Policy, images: NDArray[np.uint8]) -> None:
    session = Answering(policy)
    sentences = (DRAWER, "Open the drawer", " open  the drawer\n", "OPEN THE DRAWER")
    for image, action, sentence in zip(images, _alone(policy, images), sentences, strict=False):
        _check_answer(session.answer({"image": image, "instruction": sentence}), action)
    assert session.effort({"image": images[0], "instruction": "Open the  drawer"}) is Effort.NONE
    assert session.effort({"image": images[0], "instruction": CLOSE}) is Effort.START
