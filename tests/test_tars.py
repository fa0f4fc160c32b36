import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from dct_augment import tars


def write(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))


def test_members_are_grouped_by_key_and_read_where_they_lie(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    write(tar, {"crane-1.png": b"image", "crane-1.cls": b"7", "./v1.0/kiwi.seg.JPG": b"other", ".hidden": b"x"})
    first, second = tars.index(tar)
    with tar.open("rb") as stream:
        assert {ending: span.read(stream) for ending, span in first.members.items()} == {"png": b"image", "cls": b"7"}
        assert (first.key, second.key) == ("crane-1", "./v1.0/kiwi")
        assert second.members["seg.jpg"].read(stream) == b"other"
    assert first.image({"png", "jpg"}) == first.members["png"]
    assert first.image({"webp"}) is None


def test_an_image_is_found_whatever_the_case_of_its_ending(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"a.JPEG": b"image"})
    (sample,) = tars.index(tmp_path / "a.tar")
    assert sample.image({"jpeg"}) is not None


def test_a_member_that_is_in_a_tar_twice_is_refused_as_webdataset_does(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"a.png": b"one", "a.PNG": b"other"})
    with pytest.raises(tarfile.TarError, match=r"'a.PNG' is in it twice"):
        tars.index(tmp_path / "a.tar")


def test_members_that_webdataset_skips_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"__MACOSX__/a.png": b"x", "__meta__/b.cls": b"x", "a.png": b"image"})
    assert [sample.key for sample in tars.index(tmp_path / "a.tar")] == ["a"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_known_by_its_content_and_unpacked(tmp_path: Path, mode: str) -> None:
    write(tmp_path / "plain.tar", {"a.png": b"image" * 1000})
    write(tmp_path / "packed.tar", {"a.png": b"image" * 1000}, mode)
    assert not tars.is_compressed(tmp_path / "plain.tar")
    assert tars.is_compressed(tmp_path / "packed.tar")
    tars.unpack(tmp_path / "packed.tar", tmp_path / "unpacked.tar")
    assert (tmp_path / "unpacked.tar").read_bytes() == (tmp_path / "plain.tar").read_bytes()


def test_a_tar_that_is_compressed_by_zstd_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))
    with pytest.raises(tarfile.TarError, match="zstd; unpack it"):
        tars.is_compressed(tmp_path / "a.tar")


def test_a_compressed_tar_has_no_spans(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"a.png": b"image"}, "w:gz")
    with pytest.raises(tarfile.TarError):
        tars.index(tmp_path / "a.tar")


def test_a_tar_is_complete_when_it_ends_with_two_empty_blocks(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    write(tar, {"a.png": b"image"})
    assert tars.is_complete(tar)
    for size in (0, 100, 1024, 1500):
        tar.write_bytes(tar.read_bytes()[:size])
        assert not tars.is_complete(tar)
