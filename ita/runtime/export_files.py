"""Files of an exported model: what ``ita export`` writes and the runtime reads.

A folder has the graph of the model, its description in JSON, the text tower with its tokenizer,
and the features of a vocabulary.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ita.classes import ClassList
from ita.errors import UserError
from ita.files import write_atomically
from ita.structured_files import parse_json

DESCRIPTION, VOCABULARY, TOKENIZER = "model.json", "vocabulary.npz", "tokenizer.json"
# Stems of the graphs' files.
MODEL, TEXT = "model", "text"
ONNX_SUFFIX, TORCH_SUFFIX = ".onnx", ".pt2"
FORMAT = 1
CLASS_LIST = "class_list"


@dataclass(frozen=True)
class Description:
    """What one needs to know to use the graphs.

    Attributes:
        divisor: divisor of the height and width of the graph's images.
        min_size: short side of images in pixels; 0 keeps the size.
        max_size: maximum long side in pixels.
        resize_logits: resize mask logits, not mask probabilities, to the size of the image.
        dominant: whether the graph has inputs for candidates.
        prompts: patterns of names for the classifier.
        candidate_prompts: patterns of names for the candidates.
        other: the candidate beside the names.
        training_names: names that make a class a seen class.
        context_length: maximum number of tokens of a text; 0 without a text tower.
        format: version of these files.
    """

    divisor: int
    min_size: int
    max_size: int
    resize_logits: bool
    dominant: bool
    prompts: tuple[str, ...]
    candidate_prompts: tuple[str, ...]
    other: str
    training_names: tuple[str, ...]
    context_length: int
    format: int = FORMAT


def write_description(description: Description, folder: Path) -> None:
    """Write the description of a model into its folder."""
    text = json.dumps(asdict(description), indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / DESCRIPTION, text.encode())


def read_description(folder: Path) -> Description:
    """Read the description of the model in a folder.

    Raises:
        UserError: the folder is not an exported model, or is one of another version.
    """
    path = folder / DESCRIPTION
    try:
        content = parse_json(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(
            f"{folder} is not a model exported by ita export: cannot read {DESCRIPTION} "
            f"({error.strerror or error})"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); export the model again") from error
    names = {field.name for field in fields(Description)}
    if not isinstance(content, dict) or content.get("format") != FORMAT or set(content) != names:
        raise UserError(
            f"{path} is not of format {FORMAT}; export the model again with this version of ita"
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return Description(**values)


@dataclass(frozen=True, eq=False)
class TextInputs:
    """A class list and the inputs of the graph that depend on it.

    Attributes:
        class_list: C classes.
        arrays: by name, as :class:`ita.export.graph.SegmentationGraph` describes them.
    """

    class_list: ClassList
    arrays: Mapping[str, np.ndarray]


def write_vocabulary(vocabulary: TextInputs, path: Path) -> None:
    """Write an encoded class list as ``.npz``."""
    buffer = io.BytesIO()
    content: dict[str, Any] = {**vocabulary.arrays}
    content[CLASS_LIST] = np.array(json.dumps(vocabulary.class_list.to_dict()))
    np.savez(buffer, **content)
    write_atomically(path, buffer.getvalue())


def read_vocabulary(path: Path) -> TextInputs:
    """Read an encoded class list.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
        class_list = ClassList.from_dict(parse_json(str(arrays.pop(CLASS_LIST))))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # damaged files raise almost any exception
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    return TextInputs(class_list, arrays)
