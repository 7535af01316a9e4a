"""Export of a trained model to a folder of graphs that run without this package."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from ita.classes import ClassList
from ita.errors import UserError
from ita.export.graph import SegmentationGraph, image_model
from ita.export.programs import check_libraries, write_graph
from ita.export.text import TextGraph, exportable_tokenizer
from ita.files import folder_written_whole, write_atomically
from ita.meta_arch import ITA
from ita.modeling.vocabulary import BARE, OTHER, PROMPTS, Vocabulary
from ita.predictor import Predictor
from ita.runtime.export_files import (
    MODEL,
    TEXT,
    TOKENIZER,
    VOCABULARY,
    Description,
    TextInputs,
    write_description,
    write_vocabulary,
)


def export_model(
    predictor: Predictor, folder: Path, suffix: str, classes: ClassList | None = None
) -> None:
    """Export a model, and its text tower where that is possible, to a new folder.

    Args:
        predictor: a trained model on the CPU, in float32.
        folder: the folder, which does not exist.
        suffix: format of the graphs, ``.onnx`` or ``.pt2``.
        classes: classes to encode for use without the text tower.

    Raises:
        UserError: the folder exists or cannot be written, a library is missing, or the model cannot
            be exported.
    """
    check_libraries(suffix)
    model = predictor.model
    _check_image_embedding(model)
    with folder_written_whole(folder) as partial:
        tokenizer = None if model.name_table else _tokenizer(model)
        if tokenizer is None and classes is None:
            why = "MODEL.ITA.NAME_TABLE" if model.name_table else "a text tower unlike OpenAI's"
            raise UserError(
                f"names cannot be encoded by exported files ({why}); give --classes to export "
                "the features of these classes"
            )
        vocabulary = None if classes is None else predictor.segmenter(classes).vocabulary
        _write_model(predictor, partial / f"{MODEL}{suffix}")
        if tokenizer is not None:
            write_atomically(partial / TOKENIZER, tokenizer.encode())
            _write_text(model, partial / f"{TEXT}{suffix}")
        if vocabulary is not None:
            arrays = {name: tensor.numpy() for name, tensor in text_inputs(vocabulary).items()}
            write_vocabulary(TextInputs(vocabulary.class_list, arrays), partial / VOCABULARY)
        write_description(describe_model(predictor, tokenizer is not None), partial)


def text_inputs(vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Return the graph's inputs that depend on the class list."""
    inputs = {
        "text": vocabulary.features,
        "class_index": vocabulary.class_index,
        "seen": vocabulary.seen,
    }
    if vocabulary.candidates is not None:
        inputs["candidates"] = vocabulary.candidates.ranking
        inputs["candidate_queries"] = vocabulary.candidates.queries
    return inputs


def _check_image_embedding(model: ITA) -> None:
    if model.dominant is not None and model.image_embedding == "clip_preprocess":
        raise UserError(
            "a model with MODEL.ITA.IMAGE_EMBEDDING clip_preprocess cannot be exported: it resizes "
            "the image a second time, by PIL; shared and places can"
        )


def _write_model(predictor: Predictor, path: Path) -> None:
    """Write the graph of a model, traced for a vocabulary of three classes."""
    name = predictor.model.train_class_list.names[0]  # a word that CLIP knows
    # Neither as many names as classes, nor one of anything, which tracers take for constants.
    example = ClassList("example", ((name, name), (name,), (name, name)))
    vocabulary = predictor.segmenter(example).vocabulary
    graph = SegmentationGraph(image_model(predictor.model), predictor.options, vocabulary)
    batch, rows, columns = Dim("batch"), Dim("rows"), Dim("columns")
    names, classes, candidates = Dim("names"), Dim("classes"), Dim("candidates")
    divisor = predictor.model.backbone.size_divisibility
    sizes: dict[str, dict[int, Any]] = {
        "image": {0: batch, 2: divisor * rows, 3: divisor * columns},
        "size": {0: batch},
        "text": {0: names},
        "class_index": {0: names},
        "seen": {0: classes},
    }
    if vocabulary.candidates is not None:
        sizes |= {"candidates": {0: candidates}, "candidate_queries": {0: candidates}}
    inputs = {
        "image": torch.zeros(2, 3, 3 * divisor, 5 * divisor, dtype=torch.uint8),
        "size": torch.tensor([[3 * divisor - 1, 5 * divisor], [2 * divisor, 3 * divisor]]),
        **text_inputs(vocabulary),
    }
    write_graph(graph, inputs, sizes, ("mask_logits", "class_scores"), path)


def _tokenizer(model: ITA) -> str | None:
    names = model.train_class_list.synonyms
    return exportable_tokenizer(model.backbone, [p.format(n) for n in names for p in PROMPTS])


def _write_text(model: ITA, path: Path) -> None:
    """Write the graph of a text tower."""
    clip = model.backbone.clip
    sizes = {"tokens": {0: Dim("texts"), 1: Dim("length", max=len(clip.positional_embedding))}}
    tokens = torch.ones(3, 7, dtype=torch.int64)
    write_graph(TextGraph(clip), {"tokens": tokens}, sizes, ("features",), path)


def describe_model(predictor: Predictor, has_text: bool) -> Description:
    """Describe a model and how it was exported, with or without its text tower."""
    model, mapper = predictor.model, predictor.mapper
    return Description(
        divisor=model.backbone.size_divisibility,
        min_size=mapper.min_size,
        max_size=mapper.max_size,
        resize_logits=predictor.options.resize_masks_first,
        dominant=model.dominant is not None,
        prompts=PROMPTS,
        candidate_prompts=BARE if model.candidate_text == "bare" else PROMPTS,
        other=OTHER,
        training_names=model.train_class_list.synonyms,
        context_length=len(model.backbone.clip.positional_embedding) if has_text else 0,
    )
