"""What plugins are tried on is always the same, and of the kinds that are promised."""

from __future__ import annotations

from realignkit.testing import HOSTILE_PROMPTS, PROMPTS, hostile_images, tiny_images


def test_pictures_are_always_the_same_and_never_shared():
    first, again = tiny_images(), tiny_images()
    assert [image.tobytes() for image in first] == [image.tobytes() for image in again]
    assert len({image.tobytes() for image in first}) == len(first) == len(PROMPTS)
    assert not any(one is other for one, other in zip(first, again, strict=True))


def test_hostile_ones_are_rgb_of_many_sizes():
    images = hostile_images()
    assert {image.mode for image in images} == {"RGB"}
    assert {(1, 1), (120, 1), (1, 120), (500, 300)} <= {image.size for image in images}
    assert [image.tobytes() for image in images] == [image.tobytes() for image in hostile_images()]


def test_hostile_prompts_are_no_empty_ones():
    assert all(prompt.strip() for prompt in HOSTILE_PROMPTS)
    assert any(len(prompt) > 1000 for prompt in HOSTILE_PROMPTS)
    assert any(not prompt.isascii() for prompt in HOSTILE_PROMPTS)
