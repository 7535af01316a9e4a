"""Keys of data, training and evaluation, with their defaults, ranges and meanings."""

from ita.config.ranges import Integer, Key, Number, OneOf, Switch, Text, Texts

# Pixels of the longest side of an image.
LARGEST_SIDE = 2**15 - 1
# Scale of large-scale jitter.
LARGEST_SCALE = 100

# Title of a group -> its keys.
RUN_KEYS: dict[str, tuple[Key, ...]] = {
    "Images and data sets": (
        Key(
            "INPUT.FORMAT",
            "RGB",
            OneOf(("RGB",)),
            "The only allowed value: CLIP takes RGB images.",
        ),
        Key(
            "INPUT.IMAGE_SIZE",
            1024,
            Integer(1, LARGEST_SIDE),
            "Height and width of training images, which are cropped or padded to this size.",
        ),
        Key(
            "INPUT.MIN_SCALE",
            0.1,
            Number(0, LARGEST_SCALE, zero=False),
            "Large-scale jitter: before that, an image is resized to fit a square of IMAGE_SIZE "
            "times a random factor, of which this is the minimum.",
        ),
        Key(
            "INPUT.MAX_SCALE",
            2.0,
            Number(0, LARGEST_SCALE, zero=False),
            "Maximum of this factor.",
        ),
        Key(
            "INPUT.MIN_SIZE_TEST",
            -1,
            Integer(0, LARGEST_SIDE, also=(-1,)),
            "Short side of test images; 0 keeps their size; -1 selects the usual value of each "
            "data set (1024 for Cityscapes and Mapillary Vistas, 800 for the others).",
        ),
        Key(
            "INPUT.MAX_SIZE_TEST",
            -1,
            Integer(1, LARGEST_SIDE, also=(-1,)),
            "Maximum long side of test images; -1 likewise (2560 and 1333).",
        ),
        Key(
            "INPUT.PAD_TO_IMAGE_SIZE",
            True,
            Switch(),
            "Pad training images to IMAGE_SIZE x IMAGE_SIZE. Positions are relative to the padded "
            "frame, so without jitter a model learns a single padding and performs poorly at "
            "inference without it.",
        ),
        Key(
            "DATASETS.CUSTOM",
            (),
            Texts(),
            "YAML files that describe custom data sets (dataset.md#your-own-data).",
        ),
        Key(
            "DATASETS.TRAIN_VOCABULARY",
            "",
            Text(),
            "Class list file that replaces the one of DATASETS.TRAIN, for training and for the "
            'seen classes of evaluations; "" keeps the data set\'s own (evaluations: the '
            "checkpoint's).",
        ),
        Key(
            "DATASETS.TEST_VOCABULARY",
            (),
            Texts(may_be_empty=True),
            "Class list files that replace those of DATASETS.TEST: one for all or one for each "
            'data set. "" keeps a data set\'s own.',
        ),
        Key(
            "DATALOADER.ON_ERROR",
            "stop",
            OneOf(("stop", "skip")),
            'Training image or label that cannot be used: "stop" saves a checkpoint and stops with '
            'an error that names the file, "skip" logs the file and takes another image '
            "(docs/training.md).",
        ),
        Key(
            "DATALOADER.MAX_BAD_IMAGES",
            100,
            Integer(1),
            'With "skip": the training is saved and stops at more bad images than these, over all '
            "processes. Single files decay; hundreds mean a lost disk or labels of other classes.",
        ),
        Key(
            "DATALOADER.CHECK_FILES",
            False,
            Switch(),
            "Check the headers of all images and labels of DATASETS.TRAIN and DATASETS.TEST at the "
            "start of a training or evaluation: whether they exist, open and agree in size.",
        ),
    ),
    "Training and evaluation": (
        Key(
            "SOLVER.WEIGHT_DECAY_EMBED",
            0.0,
            Number(),
            "Weight decay of nn.Embedding weights (queries and positions).",
        ),
        Key(
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
            "full_model",
            OneOf(("full_model",)),
            "The only allowed value: CLIP_VALUE limits the gradient norm of the whole model.",
        ),
        Key(
            "SOLVER.GRADIENT_ACCUMULATION_STEPS",
            1,
            Integer(1),
            "IMS_PER_BATCH is split into this many forward and backward passes per optimizer step.",
        ),
        Key(
            "SOLVER.AMP.DTYPE",
            "auto",
            OneOf(("auto", "float16", "bfloat16")),
            'Mixed-precision dtype: "float16", "bfloat16", or "auto" (float16 on GPUs, bfloat16 '
            "on CPUs).",
        ),
        Key(
            "SOLVER.TF32",
            True,
            Switch(),
            "TF32 in the float32 matrix products and convolutions of training, on GPUs.",
        ),
        Key(
            "SOLVER.DETERMINISTIC",
            False,
            Switch(),
            "Use operators that give equal bits in every run, on GPUs too, where they are slower.",
        ),
        Key(
            "SOLVER.CHECKPOINT_KEEP_LAST",
            0,
            Integer(0),
            "Number of newest periodic checkpoints that are kept; 0 keeps all.",
        ),
        Key(
            "SOLVER.CHECKPOINT_KEEP_EVERY",
            0,
            Integer(0),
            "Keep those after a multiple of so many iterations too; 0 for none.",
        ),
        Key(
            "SOLVER.ON_NONFINITE",
            "stop",
            OneOf(("stop", "skip")),
            "What follows a step with a loss or gradients of nan or inf, which never changes the "
            'weights: "stop" ends the training, "skip" goes on with the next step, but not after '
            "10 in a row.",
        ),
        Key(
            "SOLVER.TRACKER",
            "",
            OneOf(("", "wandb", "trackio")),
            'Tracker that gets the scalars of a training besides TensorBoard: "" for none, '
            '"wandb" or "trackio", which need the package\'s extra of that name '
            "(docs/training.md).",
        ),
        Key(
            "TEST.AMP",
            False,
            Switch(),
            "Evaluate in mixed precision, with the dtype of SOLVER.AMP.DTYPE.",
        ),
        Key(
            "TEST.TF32",
            False,
            Switch(),
            "TF32 in evaluations, on GPUs.",
        ),
        Key(
            "TEST.BEST_METRIC",
            "",
            Text(),
            "Metric by which model_best.pth is selected among the evaluations of a run, for "
            'example "openvocab_ade20k_panoptic_val/panoptic_seg/PQ"; "" writes no such file.',
        ),
        Key(
            "TEST.NUM_PICTURES",
            4,
            Integer(0),
            "Visualizations written by each evaluation, of so many of the first images and, by "
            "the mIoU of the image, of the best and of the worst: prediction, ground truth and a "
            "legend, which marks classes outside the training class list as unseen.",
        ),
        Key(
            "TEST.REPORT",
            True,
            Switch(),
            "Write OUTPUT_DIR/report.html after each evaluation.",
        ),
    ),
}
