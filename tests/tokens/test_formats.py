"""Tokens in the formats of other tools, read by the real loaders."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dct_augment.diffusion import WordNorms
from dct_augment.errors import InputError, StaleRunError
from dct_augment.records import ClassInfo
from dct_augment.tokens import formats
from dct_augment.tokens.files import TokenFolder
from dct_augment.tokens.formats import Token
from tests import tiny

CRANE = ClassInfo(0, "crane", "crane", homonym=True)
IDENTITY = {"schema": 2}
BASE = {"path": "some/model", "revision": None, "family": "StableDiffusion", "blocks": [["", 16]]}


def token(count: int = 1, *, pair: bool = False, word: str = "<dct-tiny-crane>", **metadata: object) -> Token:
    generator = torch.Generator().manual_seed(count)
    widths = {"clip_l": 16, "clip_g": 24} if pair else {"": 16}
    return Token(word, {key: torch.randn(count, d, generator=generator) for key, d in widths.items()}, metadata)


@pytest.mark.parametrize("kind", formats.FORMATS)
@pytest.mark.parametrize("pair", [False, True])
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_every_format_gives_back_what_was_written(tmp_path_factory, kind, pair, counts):
    folder = tmp_path_factory.mktemp("out")
    tokens = [token(n, pair=pair, word=f"<dct-x-{index}>", slug=f"s{index}") for index, n in enumerate(counts)]
    paths = formats.write(tokens, folder, kind)
    assert len(paths) == (1 if kind == "bundle" else len(tokens))
    by_word = {written.word: written for path in paths for written in formats.read(path)}
    for original in tokens:
        assert torch.equal(by_word[original.word].vector, original.vector)
        assert by_word[original.word].metadata["slug"] == original.metadata["slug"]
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in formats.write(list(by_word.values()), folder, kind)] == first


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_loads_a_file_in_its_own_format(tmp_path, count):
    (path,) = formats.write([token(count)], tmp_path, "diffusers")
    pipe = tiny.pipeline()
    pipe.load_textual_inversion(path)
    ids = pipe.tokenizer(
        pipe.maybe_convert_prompt("<dct-tiny-crane>", pipe.tokenizer), add_special_tokens=False
    ).input_ids
    torch.testing.assert_close(pipe.text_encoder.get_input_embeddings().weight[ids], token(count).vector)


@pytest.mark.parametrize("count", [1, 2])
def test_diffusers_loads_a_pair_into_both_encoders_of_sdxl(tmp_path, count):
    (path,) = formats.write([token(count, pair=True)], tmp_path, "diffusers")
    pipe, stored = tiny.pipeline("xl"), load_file(path)
    for key, model, words in (
        ("clip_l", pipe.text_encoder, pipe.tokenizer),
        ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        pipe.load_textual_inversion(stored[key], token="<dct-tiny-crane>", text_encoder=model, tokenizer=words)
        ids = words(pipe.maybe_convert_prompt("<dct-tiny-crane>", words), add_special_tokens=False).input_ids
        torch.testing.assert_close(model.get_input_embeddings().weight[ids], token(count, pair=True).parts[key])


def test_a1111_and_comfyui_take_the_file_name_as_the_word(tmp_path):
    (path,) = formats.write([token(2)], tmp_path, "a1111")
    assert path.name == "dct-tiny-crane.safetensors"
    assert {key: tensor.shape for key, tensor in load_file(path).items()} == {"emb_params": (2, 16)}
    (path,) = formats.write([token(2, pair=True)], tmp_path, "comfyui")
    assert {key: tensor.shape for key, tensor in load_file(path).items()} == {"clip_l": (2, 16), "clip_g": (2, 24)}


class TestForeignFiles:
    """Files that other tools wrote."""

    def test_a_file_without_metadata_is_called_by_its_key_or_its_name(self, tmp_path):
        save_file({"emb_params": torch.ones(2, 16)}, tmp_path / "my-style.safetensors")
        save_file({"<cat-toy>": torch.ones(16)}, tmp_path / "learned.safetensors")
        (a,), (b,) = (formats.read(tmp_path / f"{name}.safetensors") for name in ("my-style", "learned"))
        assert (a.word, a.vector.shape, b.word, b.vector.shape) == ("my-style", (2, 16), "<cat-toy>", (1, 16))

    def test_pickled_files_are_read_as_tensors_and_run_no_code(self, tmp_path):
        torch.save({"string_to_param": {"*": torch.ones(2, 16)}, "name": "x"}, tmp_path / "old.pt")
        torch.save({"<toy>": torch.ones(16)}, tmp_path / "learned_embeds.bin")
        assert formats.read(tmp_path / "old.pt")[0].word == "old"
        assert formats.read(tmp_path / "learned_embeds.bin")[0].word == "<toy>"

        class Evil:
            def __reduce__(self):
                return (Path(tmp_path / "owned").touch, ())

        torch.save({"<toy>": Evil()}, tmp_path / "evil.pt")
        with pytest.raises(InputError, match=r"evil.pt' is not a plain file of tensors.*as \.safetensors"):
            formats.read(tmp_path / "evil.pt")
        assert not (tmp_path / "owned").exists()

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"a": torch.ones(2, 3, 4)}, "no embedding of shape"),
            ({"a": torch.ones(3, dtype=torch.int64)}, "no embedding of shape"),
            ({"clip_l": torch.ones(16)}, "must be one tensor, or clip_l and other"),
            ({"clip_l": torch.ones(2, 16), "clip_g": torch.ones(1, 24)}, "of one length"),
        ],
    )
    def test_a_file_that_holds_no_token_is_refused(self, tmp_path, tensors, message):
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(InputError, match=message):
            formats.read(tmp_path / "x.safetensors")
        for name, content in (("none.safetensors", None), ("text.safetensors", b"text"), ("text.pt", b"text")):
            if content:
                (tmp_path / name).write_bytes(content)
            with pytest.raises(InputError, match=name):
                formats.read(tmp_path / name)


OLD_METADATA = {
    "token": "<dct-tiny-crane>", "class": "crane", "slug": "crane", "class_index": 0, "usable": True,
    "verdict": "diverged", "effect": 12.5, "identity": IDENTITY,
}  # fmt: skip
TRANSLATED = {"verdict": "worse", "mean_pixel_change": 12.5}


class TestOlderVersions:
    """What a version before 0.2 wrote: `effect`, and the verdict `diverged`."""

    def write(self, folder: Path) -> Path:
        path = folder / "crane.safetensors"
        save_file({"<dct-tiny-crane>": torch.ones(16)}, path, metadata={"dct_augment": json.dumps(OLD_METADATA)})
        return path

    def test_a_token_file_is_read_in_todays_words(self, tmp_path):
        (old,) = formats.read(self.write(tmp_path))
        assert {key: old.metadata[key] for key in TRANSLATED} == TRANSLATED
        assert "effect" not in old.metadata

    def test_a_token_in_a_bundle_is_read_in_todays_words(self, tmp_path):
        header = {"dct_augment": json.dumps({"<dct-tiny-crane>": OLD_METADATA})}
        save_file({"<dct-tiny-crane>": torch.ones(16)}, tmp_path / "tokens.safetensors", metadata=header)
        (old,) = formats.read(tmp_path / "tokens.safetensors")
        assert {key: old.metadata[key] for key in TRANSLATED} == TRANSLATED

    def test_a_run_goes_on_with_its_tokens_and_indexes_them_in_todays_words(self, tmp_path):
        self.write(tmp_path)
        folder = TokenFolder(tmp_path, "tiny")
        metadata = folder.metadata(CRANE, IDENTITY)
        assert metadata is not None
        folder.publish([metadata])
        assert folder.index()[list(TRANSLATED)].to_dict("records") == [TRANSLATED]
        assert not folder.is_usable(CRANE)

    def test_an_index_is_read_in_todays_words(self, tmp_path):
        pd.DataFrame([{"slug": "crane", "verdict": "diverged", "effect": 12.5}]).to_parquet(tmp_path / "index.parquet")
        assert TokenFolder(tmp_path, "tiny").index().to_dict("records") == [{"slug": "crane", **TRANSLATED}]


class TestImport:
    """Foreign tokens become tokens of a run, or are refused."""

    def import_token(self, folder, foreign, **options):
        tokens = TokenFolder(folder, "tiny")
        tokens.check_import(foreign, CRANE, BASE, **options)
        return tokens.import_token(foreign, CRANE, IDENTITY, BASE)

    def test_an_imported_token_becomes_a_token_of_the_run(self, tmp_path):
        self.import_token(tmp_path, token(2, word="<toy>", guide_accuracy=0.5))
        folder = TokenFolder(tmp_path, "tiny")
        assert torch.equal(folder.vector(CRANE), token(2).vector)
        metadata = folder.metadata(CRANE, IDENTITY)
        assert metadata is not None
        assert metadata["origin"] == "imported: <toy>"
        assert (metadata["guide_accuracy"], metadata["stop_reason"]) == (0.5, "imported")
        folder.publish([metadata])
        assert folder.index()["token"].tolist() == ["<dct-tiny-crane>"]
        with pytest.raises(StaleRunError, match="trained for 'crane', but the class is called 'heron' now"):
            folder.metadata(ClassInfo(0, "heron", "crane"), IDENTITY)

    def test_importing_a_token_that_exists_needs_replace(self, tmp_path):
        self.import_token(tmp_path, token())
        with pytest.raises(InputError, match=r"<dct-tiny-crane> is known already.*--replace"):
            self.import_token(tmp_path, token(3))
        self.import_token(tmp_path, token(3), replace=True)
        assert len(TokenFolder(tmp_path, "tiny").vector(CRANE)) == 3

    def test_a_token_of_another_width_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"has width 16 \+ 24, but some/model takes 16"):
            self.import_token(tmp_path, token(pair=True), any_model=True)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("factor", [0, 1e-6, 1e6, 1e30])
    def test_a_token_that_is_no_embedding_of_the_model_is_refused(self, tmp_path, factor):
        foreign, words = token(2), [WordNorms(16, 4.0, 8.0)]
        self.import_token(tmp_path, foreign, words=words)
        scaled = Token(foreign.word, {"": foreign.parts[""] * factor}, {})
        with pytest.raises(InputError, match="the words of the model have 4 on average and 8 at most"):
            self.import_token(tmp_path, scaled, words=words, replace=True)
        assert torch.equal(TokenFolder(tmp_path, "tiny").vector(CRANE), foreign.vector)

    @pytest.mark.parametrize("value", [None, "x", [], {}, True, float("nan"), 10**400, -(10**400)])
    def test_what_the_header_of_another_tool_holds_harms_nothing(self, tmp_path, value):
        metadata = self.import_token(tmp_path, token(updates=value, guide_accuracy=value, base_model=value))
        assert (metadata["updates"], metadata["guide_accuracy"]) == (0, None)

    def test_a_token_of_another_base_model_is_refused_without_any_model(self, tmp_path):
        foreign = token(base_model=json.dumps(BASE | {"path": "another/model", "revision": "v2"}))
        with pytest.raises(InputError, match=r"made for another/model@v2, not for some/model. Use --any-model"):
            self.import_token(tmp_path, foreign)
        self.import_token(tmp_path, foreign, any_model=True)
        self.import_token(tmp_path, token(base_model=json.dumps(BASE)), replace=True)
