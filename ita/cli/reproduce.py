"""Evaluate a checkpoint on every benchmark that is present, beside its published results.

    ita reproduce --weights fcclip_cocopan.pth --datasets /data --class-lists fc-clip/fcclip/data/datasets
    ita reproduce --weights model.pth --set ade20k --set pc59 --num-gpus 4
    ita reproduce --weights model.pth --published mine.yaml MODEL.DEVICE cpu

FC-CLIP's checkpoints are recognized. Their results were published with FC-CLIP's class lists, which
are in fcclip/data/datasets of its repository; pass that folder as --class-lists. Without it, the
packaged lists are used, and the results are not comparable.

The results of each data set are stored in the output folder when it is finished, and used again by
the next call if checkpoint, config, class lists, data, code, versions and device are the same. The
report is written to report.md and report.html in that folder, which several machines must share.

Exit code 0 if
- at least one data set with a published mIoU was evaluated, and each one is within 0.2 of it,
- on all images and with the published class lists: packaged lists are compared by their classes,
  others by their file names (the report has a short hash of the names in each list),
- each data set that was named by --set was evaluated, and so was each that is present with some of its
  files and has a published mIoU.
Else 1, which torchrun reports as a failed process, below the conclusion.
"""  # noqa: E501

import argparse
import logging
import os
import sys
from pathlib import Path

from ita.cli import train
from ita.data.catalogue import CATALOGUE, OTHER_NAMES, ROOT_VARIABLE, families_of

FAMILIES = [row.family for row in CATALOGUE if row.split == "val"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE", help="checkpoint (path or URL)")
    add("--datasets", metavar="DIR", help=f"root of all data sets (default: {ROOT_VARIABLE})")
    add("--class-lists", default="", metavar="DIR", help="folder with the published class lists")
    add(
        "--set",
        action="append",
        choices=(*FAMILIES, *OTHER_NAMES),
        metavar="SET",
        help=f"data set to evaluate, {', '.join(FAMILIES)}; may be repeated (default: all present)",
    )
    add(
        "--output",
        default="output/reproduce",
        metavar="DIR",
        help="folder of results and report (default: %(default)s)",
    )
    add("--model", default="", metavar="NAME", help="published model (default: recognized)")
    add("--config-file", default="", metavar="FILE", help="config (default: the published model's)")
    add(
        "--published",
        default="",
        metavar="FILE",
        help="YAML file of published results, in the format of ita/reports/published.yaml",
    )
    add("--subset", action="store_true", help="also evaluate data sets with some of their images")
    add("--redo", action="store_true", help="evaluate finished data sets again")
    train.add_launch_arguments(parser)
    train.add_overrides(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate, write the report and print it."""
    from ita.engine.launch import errors_in_one_line, starts_rank_0
    from ita.engine.planning import Request, describe_plan, make_plan, recognize
    from ita.engine.reproducing import collect, evaluate_pending
    from ita.files import write_atomically
    from ita.reports.reproduction import conclusion, format_html, format_markdown, format_text

    # The plan reports what the checks of the data sets find.
    logging.basicConfig(level=logging.ERROR)
    if options.datasets:
        os.environ[ROOT_VARIABLE] = options.datasets
    request = Request(
        weights=options.weights,
        output=Path(options.output),
        class_lists=options.class_lists,
        published=options.published,
        model=options.model,
        config_file=options.config_file,
        families=[family for name in options.set or () for family in families_of(name)],
        subset=options.subset,
        redo=options.redo,
        overrides=options.opts,
    )
    with errors_in_one_line() as failures:
        subject = recognize(request)
        plan = make_plan(request, subject) if starts_rank_0(options) else None
        if plan:
            sys.stdout.write("\n".join(describe_plan(plan)) + "\n")
            sys.stdout.flush()
        try:
            evaluate_pending(plan, subject.cfg, options, failures)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "stopped; run the same command again to continue: finished data sets are kept"
            ) from None
        if not plan:
            return 0
        reproduction = collect(plan)
        reports = {
            request.output / "report.md": format_markdown(reproduction),
            request.output / "report.html": format_html(reproduction),
        }
        for path, text in reports.items():
            write_atomically(path, text.encode())
        written = " and ".join(map(str, reports))
        sys.stdout.write(f"\n{format_text(reproduction)}\nReport: {written}\n")
        sys.stdout.write(f"{conclusion(reproduction)}\n")
    return 0 if reproduction.successful else 1
