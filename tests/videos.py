"""Small videos for tests."""

import numpy as np


def make_video(path, images, *, rate=10, rotation=0):
    """Encode images, uint8 [H, W, 3], as frames; the player turns them by ``rotation`` degrees."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
