"""Tiny models with random weights, shared by the tests of the model's parts."""

import json
import os

import pytest
import torch

from ita.classes import ClassList
from ita.data.registration import register_all
from ita.files import PACKAGE
from ita.meta_arch import ITA
from ita.modeling.clip_weights import RANDOM, build_clip
from ita.modeling.criterion import SetCriterion
from ita.modeling.decoder import Decoder
from ita.modeling.dominant import DominantCategories
from ita.modeling.matcher import HungarianMatcher
from ita.modeling.pixel_decoder import PixelDecoder
from ita.modeling.text_cache import FOLDER_VARIABLE
from tests.recipe import CRITERION, MATCHER

TOY_CLIP = PACKAGE / "toy" / "clip"
TINY_CLIP = TOY_CLIP / "open_clip_config.json"
RESNET = {
    "embed_dim": 40,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
TRAIN_CLASSES = ("cat", "dog, puppy", "sky", "grass, lawn, meadow", "car")


if "PYTEST_XDIST_WORKER" in os.environ:  # one of the test processes that share the cores
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Start the longest files first, beside which the other test processes do the rest."""
    longest = ("test_demo.py", "test_train_net.py")
    items.sort(key=lambda item: item.path.name not in longest)


@pytest.fixture(scope="session", autouse=True)
def without_user_cache():
    """Tests, and the processes that they start, neither read nor write the user's files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, "")
        yield


@pytest.fixture(scope="session", autouse=True)
def registered_datasets():
    """The benchmarks and the toy world in Detectron2's catalogs."""
    register_all(["ita/toy/datasets.yaml"])


@pytest.fixture(scope="module")
def one_thread():
    """Run the tests of a module in one thread of PyTorch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def convnext_clip():
    return build_clip(str(TINY_CLIP), RANDOM)


@pytest.fixture(scope="session")
def resnet_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "resnet.json"
    path.write_text(json.dumps(RESNET))
    return path


@pytest.fixture(scope="session")
def resnet_clip(resnet_config):
    return build_clip(str(resnet_config), RANDOM)


@pytest.fixture(params=["convnext", "resnet"])
def clip(request):
    """Each of the two kinds of CLIP."""
    return request.getfixturevalue(f"{request.param}_clip")


@pytest.fixture
def make_ita(convnext_clip):
    """Makes small ITAs, in training mode, with unequal widths wherever widths may differ."""

    def make(
        backbone=convnext_clip,
        *,
        num_dominant=3,
        self_attention=False,
        text_residual=False,
        point_source=None,
        classes=TRAIN_CLASSES,
        things=(0, 1, 4),
        seed=0,
        **more,
    ):
        defaults = {"image_embedding": "shared", "candidate_text": "prompted", "name_table": {}}
        torch.manual_seed(seed)
        points = {"num_points": 64, **({"point_source": point_source} if point_source else {})}
        matcher = HungarianMatcher(**{**MATCHER, **points})
        weights = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
        decoder = Decoder(
            in_dim=64,
            mask_dim=48,
            text_dim=backbone.embed_dim,
            hidden_dim=32,
            num_queries=7,
            num_dominant=num_dominant,
            num_layers=4,
            num_heads=4,
            ffn_dim=40,
            self_attention=self_attention,
            num_levels=3,
            text_residual=text_residual,
        )
        return ITA(
            backbone=backbone,
            pixel_decoder=PixelDecoder(
                backbone.channels,
                hidden_dim=64,
                mask_dim=48,
                num_layers=2,
                num_heads=4,
                num_points=4,
            ),
            decoder=decoder,
            dominant=DominantCategories(backbone.embed_dim, 32, num_dominant)
            if num_dominant
            else None,
            criterion=SetCriterion(matcher, weights, **{**CRITERION, **points}),
            train_class_list=ClassList.from_strings(
                "train", classes, [i for i in things if i < len(classes)]
            ),
            **{**defaults, **more},
        )

    return make
