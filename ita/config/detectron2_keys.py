"""Keys of Detectron2 that ITA reads, itself or through Detectron2, with ranges and meanings."""

from ita.ancestor_keys import SCHEDULES
from ita.config.ranges import (
    LARGEST,
    Increasing,
    Integer,
    Key,
    Matching,
    Number,
    OneOf,
    Switch,
    Text,
    Texts,
)

# Worker processes of each GPU.
MOST_WORKERS = 1024

DETECTRON2_KEYS: tuple[Key, ...] = (
    Key(
        "MODEL.DEVICE",
        None,
        Matching(r"(cpu|cuda|mps|meta)(:\d{1,4})?", "cuda, cuda:N (N from 0), mps, cpu or meta"),
        "cuda, cuda:1 or cpu. Without a GPU, training stops with an error, and evaluation falls "
        "back to the CPU.",
    ),
    Key(
        "MODEL.WEIGHTS",
        None,
        Text(),
        "Checkpoint to evaluate, or that training starts from (.pth, .safetensors), also of "
        "FC-CLIP and of the first ITA release; CLIP's weights are not in it.",
    ),
    Key(
        "DATASETS.TRAIN",
        None,
        Texts(at_least_one=True),
        "Registered data sets to train on, with the same classes. Their class list determines the "
        "seen classes in evaluations of checkpoints that contain no class list.",
    ),
    Key(
        "DATASETS.TEST",
        None,
        Texts(),
        "Registered data sets to evaluate on.",
    ),
    Key(
        "DATALOADER.NUM_WORKERS",
        None,
        Integer(0, MOST_WORKERS),
        "Worker processes that read images, for each GPU; 0 reads them in the process itself.",
    ),
    Key(
        "INPUT.RANDOM_FLIP",
        None,
        OneOf(("horizontal", "none")),
        '"horizontal" flips training images with probability 0.5; "none" does not.',
    ),
    Key(
        "SOLVER.IMS_PER_BATCH",
        None,
        Integer(1),
        "Images of an optimizer step, over all GPUs.",
    ),
    Key(
        "SOLVER.BASE_LR",
        None,
        Number(zero=False),
        "Learning rate.",
    ),
    Key(
        "SOLVER.MAX_ITER",
        None,
        Integer(1),
        "Number of optimizer steps.",
    ),
    Key(
        "SOLVER.LR_SCHEDULER_NAME",
        None,
        OneOf(SCHEDULES),
        "Schedule of the learning rate.",
    ),
    Key(
        "SOLVER.STEPS",
        None,
        Increasing(1),
        "Increasing iterations after which WarmupMultiStepLR multiplies the learning rate by "
        "SOLVER.GAMMA; those above SOLVER.MAX_ITER are ignored.",
    ),
    Key(
        "SOLVER.GAMMA",
        None,
        Number(zero=False),
        "This factor.",
    ),
    Key(
        "SOLVER.BASE_LR_END",
        None,
        Number(),
        "Last learning rate of WarmupCosineLR.",
    ),
    Key(
        "SOLVER.NUM_DECAYS",
        None,
        Integer(1),
        "Number of equally spaced steps of WarmupStepWithFixedGammaLR.",
    ),
    Key(
        "SOLVER.WARMUP_ITERS",
        None,
        Integer(0),
        "Iterations of the warm-up; 0 for none.",
    ),
    Key(
        "SOLVER.WARMUP_FACTOR",
        None,
        Number(),
        "Learning rate at its start, relative to SOLVER.BASE_LR.",
    ),
    Key(
        "SOLVER.WARMUP_METHOD",
        None,
        OneOf(("linear", "constant")),
        "Learning rate during the warm-up.",
    ),
    Key(
        "SOLVER.RESCALE_INTERVAL",
        None,
        Switch(),
        "Stretch the rest of the schedule over the iterations after the warm-up.",
    ),
    Key(
        "SOLVER.WEIGHT_DECAY",
        None,
        Number(),
        "Weight decay of AdamW.",
    ),
    Key(
        "SOLVER.WEIGHT_DECAY_NORM",
        None,
        Number(),
        "Weight decay of norm layers.",
    ),
    Key(
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        None,
        Switch(),
        "Clip the gradient norm of the whole model.",
    ),
    Key(
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
        None,
        Number(zero=False),
        "Its maximum.",
    ),
    Key(
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
        None,
        Number(zero=False, infinite=True),
        "p of the norm; .inf for the largest gradient.",
    ),
    Key(
        "SOLVER.AMP.ENABLED",
        None,
        Switch(),
        "Train in mixed precision.",
    ),
    Key(
        "SOLVER.CHECKPOINT_PERIOD",
        None,
        Integer(0),
        "Iterations between checkpoints; 0 writes the last one only.",
    ),
    Key(
        "SOLVER.REFERENCE_WORLD_SIZE",
        None,
        Integer(0),
        "Number of GPUs that batch size, learning rate and schedule are meant for: they are "
        "scaled to the number of GPUs of the run. 0 disables it.",
    ),
    Key(
        "TEST.EVAL_PERIOD",
        None,
        Integer(0),
        "Iterations between evaluations; 0 evaluates at the end only.",
    ),
    Key(
        "TEST.DETECTIONS_PER_IMAGE",
        None,
        Integer(1),
        "Maximum number of instances of an image.",
    ),
    Key(
        "OUTPUT_DIR",
        None,
        Text(may_be_empty=False),
        "Folder of checkpoints, log and results.",
    ),
    Key(
        "SEED",
        None,
        Integer(-LARGEST, LARGEST),
        "Seed of the random numbers; a negative one draws a seed, which the log names.",
    ),
    Key(
        "CUDNN_BENCHMARK",
        None,
        Switch(),
        "Let cuDNN try its algorithms, which pays with images of one size.",
    ),
)
