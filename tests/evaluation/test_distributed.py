import json

import torch
import torch.distributed as dist
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm

from ita.evaluation.evaluators import build_evaluator
from ita.reports.evaluated_pictures import PicturesEvaluator
from ita.reports.tables import write_results
from tests.evaluation.scenes import NUM_IMAGES, TRAINING, random_prediction, registered


def evaluate_share(folder, output_dir):
    """Evaluate this process's images; write the results if it is the main one."""
    with registered(folder, "shared_scenes") as scenes:
        seen = tuple(scenes.class_list.seen(TRAINING))
        folder = output_dir / "pictures"
        pictures = PicturesEvaluator(scenes.metadata, scenes.class_list, seen, folder, 5)
        evaluator = build_evaluator(
            scenes.name,
            scenes.class_list,
            TRAINING,
            semantic=True,
            panoptic=True,
            instance=True,
            dominant=True,
            on_image=pictures.add_score,
        )
        evaluator = DatasetEvaluators([evaluator, pictures])
        evaluator.reset()
        share = list(InferenceSampler(len(scenes.records)))
        for index in share:
            record = scenes.records[index]
            evaluator.process([record], [random_prediction(record)])
        results = evaluator.evaluate()
    if comm.is_main_process():
        write_results({"toy": results}, output_dir / "results.json")
    else:
        assert results == {}
    return share


def run_process(rank, folder, output_dir):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{output_dir}/store", rank=rank, world_size=2
    )
    try:
        share = evaluate_share(folder, output_dir)
        assert len(share) in (NUM_IMAGES // 2, NUM_IMAGES // 2 + 1)
        # Neither leaves the group while the other still writes its results.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_two_processes_give_the_numbers_of_one(scenes_folder, tmp_path):
    """With an odd number of images, none of which is lost or counted twice."""
    outputs = tmp_path / "one", tmp_path / "two"
    for output in outputs:
        output.mkdir()
    evaluate_share(scenes_folder, outputs[0])
    torch.multiprocessing.spawn(run_process, (scenes_folder, outputs[1]), nprocs=2)
    one, two = (json.loads((o / "results.json").read_text())["results"]["toy"] for o in outputs)
    assert one["info"]["images"] == NUM_IMAGES
    tasks = ("sem_seg", "confusions", "panoptic_seg", "segm", "dominant")
    assert one.keys() == two.keys() == {"info", "pictures", *tasks}
    for task in one:
        assert one[task].keys() == two[task].keys()
        for metric, value in one[task].items():
            same = two[task][metric]
            assert same == value or abs(same - value) < 1e-9, metric
    pictures = [sorted(o.glob("pictures/*.png")) for o in outputs]
    assert [p.name for p in pictures[0]] == [p.name for p in pictures[1]]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]]
    named = [entry["file"] for entries in one["pictures"].values() for entry in entries]
    assert sorted(named) == [p.name for p in pictures[0]]
    assert len(named) == 5 + min(10, NUM_IMAGES - 1)  # nothing is labelled in one of them
