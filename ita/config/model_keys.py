"""Keys of the model, with their defaults, ranges and meanings."""

from ita.ancestor_keys import ARCHITECTURES
from ita.config.ranges import Integer, Key, Number, OneOf, Switch, Text

# Title of a group -> its keys.
MODEL_KEYS: dict[str, tuple[Key, ...]] = {
    "CLIP and the ensemble of its classifier with the trained one": (
        Key(
            "MODEL.META_ARCHITECTURE",
            "ITA",
            OneOf(tuple(ARCHITECTURES)),
            '"ITA"; "FCCLIP" and "MaskFormer" select the defaults of these models '
            "(docs/migration.md).",
        ),
        Key(
            "MODEL.BACKBONE.NAME",
            "CLIP",
            OneOf(("CLIP",)),
            "The only allowed value: the backbone is the frozen CLIP.",
        ),
        Key(
            "MODEL.FC_CLIP.CLIP_MODEL_NAME",
            "convnext_large_d_320",
            Text(may_be_empty=False),
            "An open_clip model name, or the path of an open_clip model config in JSON.",
        ),
        Key(
            "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS",
            "laion2b_s29b_b131k_ft_soup",
            Text(may_be_empty=False),
            'An open_clip tag, a weights file, a folder with one, or "random" (fixed seed; for '
            "tests).",
        ),
        Key(
            "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA",
            0.4,
            Number(0, 1),
            "Weight of CLIP's own classification of a mask for seen classes; the "
            "trained classifier has the rest.",
        ),
        Key(
            "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA",
            0.8,
            Number(0, 1),
            "The same for unseen classes.",
        ),
        Key(
            "MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK",
            False,
            Switch(),
            "Leave out CLIP's classification for masks too small for a cell of its feature "
            "(stride 32); the configs of ResNets have it on.",
        ),
    ),
    "Dominant categories": (
        Key(
            "MODEL.ITA.NUM_DOMINANT",
            20,
            Integer(0),
            "K, the number of dominant categories that enter the decoder as text queries; 0 "
            "disables them.",
        ),
        Key(
            "MODEL.ITA.IMAGE_EMBEDDING",
            "shared",
            OneOf(("shared", "clip_preprocess", "places")),
            'Image embedding that names are compared with: "shared" (mean of the dense feature), '
            '"clip_preprocess" (a second pass of CLIP, as in the first ITA release) or "places" '
            "(all squares of 2 × 2 cells of the dense feature, of which the best count).",
        ),
        Key(
            "MODEL.ITA.CANDIDATE_TEXT",
            "prompted",
            OneOf(("prompted", "bare")),
            'Text that is compared with the image: "prompted" (the classifier\'s vectors) or '
            '"bare" (the name alone, as in the first ITA release).',
        ),
        Key(
            "MODEL.ITA.NAME_TABLE",
            "",
            Text(),
            'A {name: feature} file (.pt, .safetensors) whose features become the queries; "" '
            "disables it.",
        ),
        Key(
            "MODEL.ITA.PROJECTION_LR_MULTIPLIER",
            0.1,
            Number(),
            "Learning rate of the projection from text features to queries, relative to "
            "SOLVER.BASE_LR.",
        ),
        Key(
            "MODEL.ITA.DOMINANT_MATCH_WEIGHT",
            0.0,
            Number(),
            "Reduction of a text query's matching cost for targets of its own class, so that it "
            "learns to find its class; 0 (as in the paper) disables it.",
        ),
        Key(
            "MODEL.ITA.TEXT_RESIDUAL",
            False,
            Switch(),
            "Add a text query's text feature, times a learned weight, to its class embedding, so "
            "that it keeps its name.",
        ),
        Key(
            "MODEL.ITA.SELF_ATTENTION",
            False,
            Switch(),
            "Self-attention between queries after cross-attention (Mask2Former, FC-CLIP: on).",
        ),
    ),
    "Encoder, decoder and losses": (
        Key(
            "MODEL.SEM_SEG_HEAD.IN_FEATURES",
            ["res2", "res3", "res4", "res5"],
            OneOf((["res2", "res3", "res4", "res5"],)),
            "The only allowed value: all four stages of the image encoder.",
        ),
        Key(
            "MODEL.SEM_SEG_HEAD.CONVS_DIM",
            256,
            Integer(32, multiple_of=32),
            "Width of the multi-scale feature encoder.",
        ),
        Key(
            "MODEL.SEM_SEG_HEAD.MASK_DIM",
            256,
            Integer(1),
            "Channels of the mask features, whose products with the queries are the mask logits.",
        ),
        Key(
            "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS",
            6,
            Integer(1),
            "Layers of multi-scale deformable self-attention in the multi-scale feature encoder.",
        ),
        Key(
            "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS",
            4,
            Integer(1),
            "Sampling points of deformable attention, for each head and level.",
        ),
        Key(
            "MODEL.MASK_FORMER.HIDDEN_DIM",
            256,
            Integer(4, multiple_of=4),
            "Width of the queries in the decoder.",
        ),
        Key(
            "MODEL.MASK_FORMER.NHEADS",
            8,
            Integer(1),
            "Attention heads of encoder and decoder; must divide HIDDEN_DIM and "
            "SEM_SEG_HEAD.CONVS_DIM.",
        ),
        Key(
            "MODEL.MASK_FORMER.DIM_FEEDFORWARD",
            2048,
            Integer(1),
            "Hidden width of the feed-forward networks of the decoder.",
        ),
        Key(
            "MODEL.MASK_FORMER.DEC_LAYERS",
            10,
            Integer(1),
            "Number of predictions: one from the initial queries, one after each of DEC_LAYERS - "
            "1 layers.",
        ),
        Key(
            "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES",
            180,
            Integer(1),
            "L, the number of learned queries, in addition to the text queries of "
            "MODEL.ITA.NUM_DOMINANT.",
        ),
        Key(
            "MODEL.MASK_FORMER.DEEP_SUPERVISION",
            True,
            Switch(),
            "Apply the losses to all predictions, not only the last one.",
        ),
        Key(
            "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT",
            0.1,
            Number(),
            'Weight of void ("no object") among the classes in the class loss.',
        ),
        Key(
            "MODEL.MASK_FORMER.CLASS_WEIGHT",
            2.0,
            Number(),
            "Weight of the class loss, also in matching.",
        ),
        Key(
            "MODEL.MASK_FORMER.MASK_WEIGHT",
            5.0,
            Number(),
            "Weight of the binary cross-entropy of masks, also in matching.",
        ),
        Key(
            "MODEL.MASK_FORMER.DICE_WEIGHT",
            5.0,
            Number(),
            "Weight of the dice loss of masks, also in matching.",
        ),
        Key(
            "MODEL.MASK_FORMER.TRAIN_NUM_POINTS",
            12544,
            Integer(1),
            "Points per mask for matching and for the mask losses.",
        ),
        Key(
            "MODEL.MASK_FORMER.OVERSAMPLE_RATIO",
            3.0,
            Number(0, 100, zero=False),
            "Candidates per point of the mask losses, of which the most uncertain ones are chosen.",
        ),
        Key(
            "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO",
            0.75,
            Number(0, 1),
            "Fraction of the points that are chosen in this way; the others are uniformly random.",
        ),
    ),
    "Results of evaluation and inference": (
        Key(
            "MODEL.MASK_FORMER.TEST.SEMANTIC_ON",
            True,
            Switch(),
            "Evaluate semantic segmentation (mIoU).",
        ),
        Key(
            "MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
            False,
            Switch(),
            "Evaluate panoptic segmentation (PQ), where the data set has panoptic labels.",
        ),
        Key(
            "MODEL.MASK_FORMER.TEST.INSTANCE_ON",
            False,
            Switch(),
            "Evaluate instance segmentation (AP), where the data set has instances.",
        ),
        Key(
            "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD",
            0.0,
            Number(0, 1),
            "Minimum class probability of a panoptic segment.",
        ),
        Key(
            "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD",
            0.8,
            Number(0, 1),
            "Minimum fraction of a mask that no better one covers; segments below it are dropped.",
        ),
        Key(
            "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE",
            False,
            Switch(),
            "Crop and resize mask logits to the output size before class scores are summed, also "
            "without panoptic and instance results, which always do so.",
        ),
    ),
}
