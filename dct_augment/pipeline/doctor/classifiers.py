"""Examines the classifiers: guide, judge, features, and the one that is trained; their files, labels and inputs."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dct_augment.classifiers import shapes
from dct_augment.classifiers.names import ResolvedName, refuse_backbone, refuse_trained, resolve, resolve_zero_shot
from dct_augment.config import ClassifierConfig, Config, FewShotClassifierConfig, ZeroShotClassifierConfig
from dct_augment.errors import ModelError
from dct_augment.pipeline import text_encoders
from dct_augment.pipeline.doctor.finding import Finding, absent
from dct_augment.records import ClassInfo


def guide(role: str, member: ClassifierConfig | FewShotClassifierConfig, classes: Sequence[ClassInfo]) -> Finding:
    """Examine a guide or judge: files, labels, input; of one that is made of photos, its backbone."""
    if isinstance(member, FewShotClassifierConfig):
        backbone = ClassifierConfig(name=member.backbone, library="timm", revision=member.revision)
        finding = _classifier(role, backbone)
        return replace(finding, detail=f"{member.name}: {finding.detail}")
    try:
        refuse_backbone(resolve(member.name, member.library))
    except ModelError as error:
        return Finding(role, "missing", str(error), "correct the name")
    finding = _classifier(role, member)
    return finding if finding.state != "ok" else _with_shape(finding, member, classes)


def _with_shape(finding: Finding, member: ClassifierConfig, classes: Sequence[ClassInfo]) -> Finding:
    """Add labels and size of the input of a classifier, if its files tell them; check that each class has a label."""
    try:
        shape = shapes.shape_of(member, resolve(member.name, member.library))
        shape.check(classes, member.match)
    except ModelError as error:
        fix = "give labels: FILE or match: FILE, or another classifier"
        return replace(finding, state="missing", detail=f"{member.name}: {error}", fix=fix)
    more = f"; {shape.in_words}" if shape.in_words else ""
    return replace(finding, detail=finding.detail + more)


def low_resource_classifier(name: str) -> Finding:
    """Examine a model that is trained from its weights."""
    what = "low-resource classifier"
    try:
        refuse_trained(resolve(name, "timm"), "downstream.model")
    except ModelError as error:
        return Finding(what, "missing", str(error), "correct the name")
    return _classifier(what, ClassifierConfig(name=name))


def zero_shot_classifier(role: str, member: ZeroShotClassifierConfig, config: Config) -> Iterator[Finding]:
    """Examine a classifier of class names: its model, and whether the text-to-image model has its text encoder."""
    name = f"zero_shot {member.model}"
    try:
        resolved = resolve_zero_shot(member.model)
    except ModelError as error:
        yield Finding(role, "missing", str(error), "correct the name")
        return
    if resolved.is_local:
        yield _classifier_folder(role, name, resolved)
    elif resolved.is_here(member.revision):
        yield Finding(role, "ok", f"{name}, in the Hub's cache")
    else:
        yield absent(role, name, "weights", is_local=False)
    if text_encoders.is_shared(config.model, member):
        verb = "rewards" if role == "guide" else "counts as right"
        detail = (
            f"{name} has the text encoder of the text-to-image model {config.model.path}, so the {role} {verb} what "
            "that model already takes the class name to mean"
        )
        fix = f"use a {role} that learned from photos of the classes, e.g. few_shot, or a zero_shot SigLIP"
        yield Finding(f"{role}'s text encoder", "warning", detail, fix)


def zero_shot_prompts(config: Config, classes: Sequence[ClassInfo]) -> Iterator[Finding]:
    """Examine whether classifiers of class names can read them all."""
    for role, members in (("guide", config.guide), ("judge", config.judge or ())):
        for member in members:
            if not isinstance(member, ZeroShotClassifierConfig) or not classes:
                continue
            from dct_augment.classifiers import zero_shot

            what = f"{role}'s prompts"
            try:
                is_here = zero_shot.check_here(member, classes)
            except ModelError as error:
                yield Finding(what, "missing", str(error), "correct the words or the templates")
                continue
            detail = "the text encoder reads all of every prompt" if is_here else "known once its model is there"
            yield Finding(what, "ok", detail)


def features(name: str, weights: Path | None) -> Finding:
    """Examine the network whose features compare images."""
    what = "image features"
    if name != "inception":
        return _classifier(what, ClassifierConfig(name=name, library="timm"))
    if importlib.util.find_spec("torch_fidelity") is None:
        return Finding(what, "missing", "inception needs torch-fidelity", "pip install 'dct-augment[inception]'")
    if weights and not weights.is_file():
        return Finding(what, "missing", f"inception: {weights} does not exist", "correct metrics.inception_weights")
    return Finding(what, "ok", f"inception, {weights or '90 MB, downloaded once'}")


def _classifier(role: str, member: ClassifierConfig) -> Finding:
    name = member.name
    match = member.match.expanduser() if isinstance(member.match, Path) else None
    for path in (member.checkpoint, member.labels, match):
        if path is not None and not path.is_file():
            return Finding(role, "missing", f"{name}: {path} does not exist", "correct the path")
    try:
        resolved = resolve(name, member.library)
    except ModelError as error:
        return Finding(role, "missing", str(error), "correct the name")
    if resolved.kind == "pocket":
        return Finding(role, "ok", f"{name}, shipped")
    if resolved.kind == "function" or member.checkpoint:
        return Finding(role, "ok", f"{name}, your own")
    if resolved.kind == "folder":
        return _classifier_folder(role, name, resolved)
    if resolved.is_here(member.revision):
        return Finding(role, "ok", f"{name}, in the Hub's cache")
    return absent(role, name, "weights", is_local=False)


def _classifier_folder(role: str, name: str, resolved: ResolvedName) -> Finding:
    if resolved.is_here():
        return Finding(role, "ok", f"{name}, a folder")
    return absent(role, name, "config.json or weights", is_local=True)
