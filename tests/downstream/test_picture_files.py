"""The pictures that a user names: files, folders, patterns and tars."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from dct_augment.downstream.picture_files import PictureFiles
from dct_augment.errors import InputError, UnreadableImageError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`photos/` with two pictures, one of them deeper, a hidden one, and a text file; it lies in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "deep/b.jpg", ".hidden.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path / "photos"


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), "blue").save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, names: list[str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name in names:
            member = tarfile.TarInfo(name)
            data = picture() if not name.endswith((".cls", ".json", ".txt")) else b"1"
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def names(*arguments: str) -> list[str]:
    return [found.name for found in PictureFiles(arguments)]


def test_a_folder_is_all_pictures_below_it(photos: Path) -> None:
    files = PictureFiles(["photos"])
    assert [found.name for found in files] == ["photos/a.png", "photos/deep/b.jpg"]
    assert [found.stored for found in files] == [Path("photos/a.png"), Path("photos/deep/b.jpg")]
    assert files.left_out.endings == {".txt": 1}
    assert files.count() == 2


def test_a_file_is_taken_whatever_it_is_called(photos: Path) -> None:
    assert names("photos/notes.txt", "photos/a.png", "photos/.hidden.png") == [
        "photos/notes.txt",
        "photos/a.png",
        "photos/.hidden.png",
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.png", ["photos/a.png"]),
        ("photos/*", ["photos/a.png", "photos/deep/b.jpg"]),
        ("photos/**/*.*", ["photos/a.png", "photos/deep/b.jpg"]),
        ("photos/**", ["photos/a.png", "photos/deep/b.jpg"]),
        ("phot?s/[a-c].png", ["photos/a.png"]),
    ],
)
def test_a_pattern_is_the_pictures_and_folders_that_fit(photos: Path, pattern: str, expected: list[str]) -> None:
    assert names(pattern) == expected


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(photos: Path) -> None:
    (photos / "[1].png").write_bytes(picture())
    assert names("photos/[1].png") == ["photos/[1].png"]


@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("TGZ", "w:gz"), ("tar.xz", "w:xz")])
def test_a_tar_is_its_pictures(tmp_path: Path, ending: str, mode: str) -> None:
    members = ["0001.png", "0001.cls", "0001.json", "x/0002.input.jpg", "__MACOSX/._0001.png", ".hidden.png", "a.txt"]
    tar = write_tar(tmp_path / f"birds.{ending}", members, mode)
    found = list(PictureFiles([str(tar)]))
    assert [one.name for one in found] == [f"{tar}/0001.png", f"{tar}/x/0002.input.jpg"]
    assert {one.stored for one in found} == {picture()}
    assert PictureFiles([str(tar)]).count() is None


def test_a_tar_that_ends_early_gives_what_is_whole_and_then_a_reason(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "birds.tar", ["1.png", "2.png", "3.png"])
    tar.write_bytes(tar.read_bytes()[: 512 * 3 + 100])
    first, *rest = PictureFiles([str(tar)])
    assert first.name == f"{tar}/1.png"
    assert isinstance(rest[-1].stored, UnreadableImageError)
    assert "the tar cannot be read further" in str(rest[-1].stored)


def test_a_file_called_tar_that_is_none_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar at all")
    (row,) = PictureFiles([str(tmp_path / "x.tar")])
    assert isinstance(row.stored, UnreadableImageError)


def test_the_members_of_a_tar_are_not_kept(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "birds.tar", [f"{number:05}.png" for number in range(300)])
    archives = []
    opened = tarfile.open

    def watched(*arguments: object, **options: object) -> tarfile.TarFile:
        archives.append(opened(*arguments, **options))  # type: ignore[call-overload]
        return archives[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarfile, "open", watched)
        counts = [len(archives[0].members) for _ in PictureFiles([str(tar)])]
    assert len(counts) == 300
    assert max(counts) <= 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("none.png", "'none.png' does not exist"),
        ("none/", "'none/' does not exist"),
        ("photos/*.gif", r"no picture fits the pattern 'photos/\*\.gif'"),
        ("photos/*.txt", "no picture fits the pattern"),
    ],
)
def test_what_is_not_there_is_named(photos: Path, argument: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PictureFiles(["photos", argument])


def test_a_folder_without_a_picture_says_what_is_in_it(photos: Path) -> None:
    (photos / "empty").mkdir()
    with pytest.raises(InputError, match="no picture in 'photos/empty': there is no file"):
        PictureFiles(["photos/empty"]).refuse_none()
    (photos / "empty" / "a.txt").write_text("")
    with pytest.raises(InputError, match="no picture in 'photos/empty': only 1 file without an ending of pictures"):
        PictureFiles(["photos/empty"]).refuse_none()
    PictureFiles(["photos/empty", "photos"]).refuse_none()
