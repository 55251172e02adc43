"""Reads a folder of events with TensorBoard's own readers and prints what they see as JSON.

Usage: read.py FOLDER
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2


def text(values):
    return [v.tensor_proto.string_val[0].decode() for v in values]


def main(folder):
    events = EventAccumulator(folder, size_guidance={k: 0 for k in ("scalars", "images", "tensors")})
    events.Reload()
    tags = events.Tags()
    plugin = lambda name: sorted(events.PluginTagToContent(name))
    hparams = {}
    if "_hparams_/session_start_info" in plugin("hparams"):
        content = {t: plugin_data_pb2.HParamsPluginData.FromString(c) for t, c in events.PluginTagToContent("hparams").items()}
        start = content["_hparams_/session_start_info"].session_start_info
        for name in sorted(start.hparams):
            value = start.hparams[name]
            hparams[name] = getattr(value, value.WhichOneof("kind"))
        experiment = content["_hparams_/experiment"].experiment
        hparams = {
            "values": hparams,
            "group": start.group_name,
            "names": [h.name for h in experiment.hparam_infos],
            "metrics": [m.name.tag for m in experiment.metric_infos],
            "ended": [c.session_end_info.status for t, c in content.items() if t.endswith("session_end_info")],
        }
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    print(
        json.dumps(
            {
                "scalars": {t: [[e.step, e.value] for e in events.Scalars(t)] for t in tags["scalars"]},
                "descriptions": {t: events.SummaryMetadata(t).summary_description for t in tags["scalars"]},
                "images": {
                    t: [[e.step, e.width, e.height, e.encoded_image_string[:8].hex()] for e in events.Images(t)]
                    for t in tags["images"]
                },
                "texts": {t: text(events.Tensors(t)) for t in plugin("text")},
                "hparams": hparams,
                "layout": {c.title: [[g.title, list(g.multiline.tag)] for g in c.chart] for c in layout.category},
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
