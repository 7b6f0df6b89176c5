from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save
from toy_bundle import SIZE, add_toy_decoder, write_toy_bundle

from inter2former_deploy.runtime import EncodedImage, EncodedImageError, EncodedImages, Segmenter
from inter2former_deploy.runtime.encoded import MOST_HEADER, RecentImages, picture_key, states_encoding


def picture(seed: int, height: int = 200, width: int = 150) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def segmenter(toy_bundle: Path) -> Segmenter:
    return Segmenter(toy_bundle, num_threads=1, custom_ops=False)


@pytest.fixture
def saved(segmenter: Segmenter, tmp_path: Path) -> Path:
    segmenter.encode(picture(1)).save(tmp_path / "one.safetensors")
    return tmp_path / "one.safetensors"


def encoded_of(key: str, values: int) -> EncodedImage:
    """An encoding of `4 * values` bytes."""
    return EncodedImage(1, 1, 16, {"image_embedding": np.zeros(values, np.float32)}, key, "")


def test_a_loaded_encoding_is_the_saved_one_to_the_bit(segmenter: Segmenter, saved: Path) -> None:
    encoded, loaded = segmenter.encode(picture(1)), EncodedImage.load(saved)
    assert (loaded.height, loaded.width, loaded.size, loaded.picture, loaded.encoder) == (
        encoded.height,
        encoded.width,
        encoded.size,
        encoded.picture,
        encoded.encoder,
    )
    assert loaded.nbytes == encoded.nbytes == sum(array.nbytes for array in load_file(saved).values())
    for name in ("image", "image_embedding"):
        np.testing.assert_array_equal(loaded.tensors[name], encoded.tensors[name], strict=True)
        np.testing.assert_array_equal(load_file(saved)[name], encoded.tensors[name], strict=True)
    sessions = [segmenter.open(image) for image in (picture(1), encoded, loaded)]
    for click in ((100, 160), (20, 30, False)):
        masks = [session.click(*click) for session in sessions]
        assert 0 < masks[0].mean() < 1
        np.testing.assert_array_equal(masks[0], masks[1])
        np.testing.assert_array_equal(masks[0], masks[2])
        np.testing.assert_array_equal(sessions[0].logits, sessions[2].logits)


def test_the_same_encoding_is_the_same_file(segmenter: Segmenter, saved: Path, tmp_path: Path) -> None:
    encoded = segmenter.encode(picture(1))
    encoded.save(tmp_path / "again")
    reordered = replace(encoded, tensors=dict(reversed(encoded.tensors.items())))
    assert b"".join(reordered.pieces()) == (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_a_file_is_what_safetensors_writes(saved: Path) -> None:
    """But for the order of the entries in the header, which there differs from run to run."""
    with safe_open(saved, framework="numpy") as file:
        theirs = save(load_file(saved), file.metadata())
    contents = []
    for content in (saved.read_bytes(), theirs):
        end = 8 + int.from_bytes(content[:8], "little")
        contents.append((end, json.loads(content[8:end]), content[end:]))
    assert contents[0] == contents[1]


def test_a_header_says_whose_encoding_it_is(segmenter: Segmenter, saved: Path) -> None:
    encoded, content = segmenter.encode(picture(1)), saved.read_bytes()
    arguments = encoded.picture, encoded.encoder
    assert states_encoding(content[:MOST_HEADER], len(content), *arguments)
    assert not states_encoding(content[:MOST_HEADER], len(content) - 1, *arguments)
    assert not states_encoding(content[:MOST_HEADER], len(content), arguments[0], "another")
    assert not states_encoding(content[:MOST_HEADER], len(content), "another", arguments[1])
    for damaged in (b"", content[:50], b"\xff" * 99, (2).to_bytes(8, "little") + b"[]", bytes(8) + content):
        assert not states_encoding(damaged, len(content), *arguments)


def test_a_scaled_picture_is_encoded_as_the_picture(segmenter: Segmenter) -> None:
    region = (10, 20, 100, 130)
    for sides in (None, region):
        encoded, scaled = segmenter.encode(picture(3), sides), segmenter.scale(picture(3), sides)
        assert segmenter.encode(scaled).pieces() == encoded.pieces()
    with pytest.raises(ValueError, match="without a region"):
        segmenter.encode(scaled, region)
    with pytest.raises(ValueError, match="must be of 64 pixels"):
        segmenter.encode(replace(scaled, size=32))


def test_an_encoding_outlives_its_segmenter(segmenter: Segmenter, toy_bundle: Path) -> None:
    encoded = segmenter.encode(picture(1))
    before = {name: array.copy() for name, array in encoded.tensors.items()}
    segmenter.open(picture(2)).click(3, 4)
    segmenter.open(encoded).click(3, 4)
    del segmenter
    for name, array in encoded.tensors.items():
        np.testing.assert_array_equal(array, before[name])


def test_keys_tell_pictures_apart() -> None:
    image = picture(1, 4, 6)
    assert picture_key(image) == picture_key(image[::-1][::-1]) == picture_key(np.asfortranarray(image))
    changed = image.copy()
    changed[3, 5, 2] ^= 1
    others = [changed, image[::-1], image[..., ::-1], image.reshape(6, 4, 3), image[:3]]
    assert len({picture_key(other) for other in [image, *others]}) == 6


def test_an_encoding_of_another_encoder_is_refused(saved: Path, tmp_path: Path) -> None:
    other = Segmenter(write_toy_bundle(tmp_path / "other", encoder=2), custom_ops=False)
    with pytest.raises(EncodedImageError, match=r"another encoder than that of .*/other .*: encode the picture again"):
        other.open(EncodedImage.load(saved))
    other.open(replace(EncodedImage.load(saved), encoder=other.bundle.manifest.encoder_id))  # nothing else is wrong


def test_an_encoding_stays_valid_when_a_decoder_is_exported_anew(
    segmenter: Segmenter, saved: Path, toy_bundle: Path
) -> None:
    before = segmenter.open(EncodedImage.load(saved)).click(100, 160)
    add_toy_decoder(toy_bundle, "toy", gain=1 / 2)
    anew = Segmenter(toy_bundle, custom_ops=False)
    mask = anew.open(EncodedImage.load(saved)).click(100, 160)
    np.testing.assert_array_equal(mask, anew.open(picture(1)).click(100, 160))
    assert (mask != before).any()


def test_another_preprocessing_is_another_encoder(segmenter: Segmenter) -> None:
    manifest = segmenter.bundle.manifest
    assert replace(manifest, preprocessing={"pad_multiple": 128}).encoder_id != manifest.encoder_id
    assert replace(manifest, postprocessing={}).encoder_id == manifest.encoder_id


@pytest.mark.parametrize(
    "change",
    [
        lambda encoded: replace(encoded, size=2 * SIZE),
        lambda encoded: replace(encoded, tensors={"image": encoded.tensors["image"]}),
        lambda encoded: replace(encoded, tensors={name: x.astype(np.float64) for name, x in encoded.tensors.items()}),
        lambda encoded: replace(encoded, tensors={**encoded.tensors, "image": np.zeros((1, 1, 3), np.float32)}),
    ],
)
def test_an_encoding_that_does_not_fit_is_refused(
    segmenter: Segmenter, saved: Path, change: Callable[[EncodedImage], EncodedImage]
) -> None:
    with pytest.raises(EncodedImageError, match="encode the picture again"):
        segmenter.open(change(EncodedImage.load(saved)))


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """Damage of the header that leaves the file's layout as it is."""

    def damage(data: bytes) -> bytes:
        header, tensors = header_of(data)
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + tensors

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: (1 << 60).to_bytes(8, "little") + data[8:],
        lambda data: (60000).to_bytes(8, "little") + b"[" * 60000,
        lambda data: b"\x89PNG" + data[4:],
        lambda data: data.replace(b'"200"', b'"201"', 1),
        lambda data: data.replace(b"F32", b"F16", 1),
        with_header(lambda h: h.pop("image_embedding")),
        with_header(lambda h: h.update(extra=h["image_embedding"])),
        with_header(lambda h: h["image_embedding"].update(shape=[-1, -1, 1])),
        with_header(lambda h: h["image_embedding"].update(shape=[1 << 40, 1 << 40])),
        with_header(lambda h: h["image_embedding"].update(shape=7)),
        with_header(lambda h: h["image"].update(shape=[SIZE * SIZE, 1, 3])),
        with_header(lambda h: h["__metadata__"].pop("sha256")),
        with_header(lambda h: h["__metadata__"].update(height="2.5")),
        with_header(lambda h: h["__metadata__"].update(encoder="another")),
        with_header(lambda h: h.update(__metadata__="none")),
    ],
)
def test_damaged_files_are_refused(saved: Path, damage: Callable[[bytes], bytes]) -> None:
    whole = saved.read_bytes()
    EncodedImage.load(saved)
    assert damage(whole) != whole
    saved.write_bytes(damage(whole))
    with pytest.raises(
        EncodedImageError, match=r"one\.safetensors is no encoded image, or .*: encode the picture again"
    ):
        EncodedImage.load(saved)


def test_a_file_of_a_later_format_says_so(saved: Path) -> None:
    saved.write_bytes(with_header(lambda h: h["__metadata__"].update(format="next"))(saved.read_bytes()))
    with pytest.raises(EncodedImageError, match="its format is 'next', not 'inter2former encoded image 3'"):
        EncodedImage.load(saved)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EncodedImage.load(tmp_path / "none.safetensors")


def test_a_failed_save_leaves_what_was_there(
    segmenter: Segmenter, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        segmenter.encode(picture(2)).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir() if path.is_file()] == [saved.name]


def test_a_folder_finds_what_this_bundle_encoded(segmenter: Segmenter, tmp_path: Path) -> None:
    folder = EncodedImages(tmp_path / "deep" / "cache")
    image = picture(1)
    encoded, found = folder.find_or_encode(segmenter, image)
    assert not found
    again, found = folder.find_or_encode(segmenter, image.copy())
    assert found
    np.testing.assert_array_equal(again.tensors["image_embedding"], encoded.tensors["image_embedding"])
    assert not folder.find_or_encode(segmenter, picture(2))[1]

    other = Segmenter(write_toy_bundle(tmp_path / "other", encoder=2), custom_ops=False)
    assert folder.find(encoded.picture, other.bundle.manifest.encoder_id) is None
    folder.path(encoded.picture).write_bytes(b"damaged")
    assert not folder.find_or_encode(segmenter, image)[1]
    assert folder.find_or_encode(segmenter, image)[1]


def test_a_file_under_another_picture_s_key_is_not_taken(segmenter: Segmenter, tmp_path: Path) -> None:
    folder = EncodedImages(tmp_path)
    one = segmenter.encode(picture(1))
    one.save(folder.path(picture_key(picture(2))))
    assert folder.find(picture_key(picture(2)), one.encoder) is None


def test_processes_may_write_the_same_folder(toy_bundle: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    code = f"""
import numpy as np
from inter2former_deploy.runtime import EncodedImages, Segmenter
segmenter = Segmenter({str(toy_bundle)!r}, num_threads=1, custom_ops=False)
folder = EncodedImages({str(tmp_path / "cache")!r})
for round in range(20):
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 256, (200, 150, 3), np.uint8)
        encoded = segmenter.encode(image)
        folder.add(encoded)
        assert folder.find(encoded.picture, encoded.encoder) is not None  # whoever wrote it last, it is whole
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    folder = EncodedImages(tmp_path / "cache")
    assert sorted(folder.folder.iterdir()) == sorted(folder.path(picture_key(picture(seed))) for seed in range(3))
    assert all(folder.find_or_encode(segmenter, picture(seed))[1] for seed in range(3))


def test_recent_images_keep_within_their_bytes() -> None:
    recent = RecentImages(100)
    recent.add("a", encoded_of("a", 10))
    recent.add("b", encoded_of("b", 10))
    assert recent.get("a") is not None  # now b was not used for longest
    recent.add("c", encoded_of("c", 10))
    assert [recent.get(key) is not None for key in "abc"] == [True, False, True]
    recent.add("d", encoded_of("d", 26))  # larger than all of it
    assert [recent.get(key) is not None for key in "acd"] == [True, True, False]
    recent.add("a", encoded_of("a", 15))  # replaces the other a: exactly full
    assert [recent.get(key) is not None for key in "ac"] == [True, True]
    recent.add("e", encoded_of("e", 25))
    assert [recent.get(key) is not None for key in "ace"] == [False, False, True]


def test_a_picture_opened_again_is_not_encoded_again(toy_bundle: Path) -> None:
    plain = Segmenter(toy_bundle, custom_ops=False)
    nbytes = plain.encode(picture(1)).nbytes
    assert plain.encode(picture(1)) is not plain.encode(picture(1))
    segmenter = Segmenter(toy_bundle, custom_ops=False, cache_bytes=2 * nbytes)
    first, second = segmenter.encode(picture(1)), segmenter.encode(picture(2, 60, 90))
    assert segmenter.encode(picture(1)) is first
    third = segmenter.encode(picture(3))
    assert segmenter.encode(picture(1)) is first
    assert segmenter.encode(picture(3)) is third
    assert segmenter.encode(picture(2, 60, 90)) is not second
    np.testing.assert_array_equal(segmenter.open(picture(1)).click(100, 160), plain.open(picture(1)).click(100, 160))


def test_threads_that_open_the_same_picture_encode_it_once(toy_bundle: Path) -> None:
    segmenter = Segmenter(toy_bundle, custom_ops=False, cache_bytes=1 << 20)
    with ThreadPoolExecutor(8) as pool:
        encoded = list(pool.map(lambda seed: segmenter.encode(picture(seed % 2)), range(32)))
    assert len({id(one) for one in encoded}) == 2


@pytest.mark.parametrize(("limit", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError), (None, TypeError)])
def test_bad_cache_sizes(toy_bundle: Path, limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="cache_bytes must be"):
        Segmenter(toy_bundle, custom_ops=False, cache_bytes=limit)
