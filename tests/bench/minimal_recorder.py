"""The least that PyAudio and soundfile can do: a device recorded to FLAC for some seconds. The peer of the recorder.

python minimal_recorder.py DEVICE SECONDS FILE.flac [BUFFER_FRAMES]
Prints one line of JSON: CPU seconds after the first block (whole process), blocks, frames, seconds from first to last.
"""

from __future__ import annotations

import json
import queue
import resource
import sys
import time

import numpy as np
import pyaudio
import soundfile

RATE_HZ = 8000


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(device: str, seconds: float, path: str, buffer_frames: int = 800) -> None:
    blocks: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def captured(pcm: bytes, _frames: int, _timing: object, _flags: int) -> tuple[None, int]:
        blocks.put(pcm)
        return None, pyaudio.paContinue

    audio = pyaudio.PyAudio()
    names = [str(audio.get_device_info_by_index(index)["name"]) for index in range(audio.get_device_count())]
    stream = audio.open(
        rate=RATE_HZ,
        channels=1,
        format=pyaudio.paInt16,
        input=True,
        input_device_index=next(index for index, name in enumerate(names) if device in name),
        frames_per_buffer=buffer_frames,
        stream_callback=captured,
    )
    count = frames = 0
    with soundfile.SoundFile(path, "w", samplerate=RATE_HZ, channels=1, format="FLAC", subtype="PCM_16") as file:
        pcm = blocks.get(timeout=10)
        began_s, began_cpu_s = time.monotonic(), cpu_s()
        while time.monotonic() - began_s < seconds:
            file.write(np.frombuffer(pcm, dtype="<i2"))
            count, frames = count + 1, frames + len(pcm) // 2
            pcm = blocks.get(timeout=10)
        used_s, lasted_s = cpu_s() - began_cpu_s, time.monotonic() - began_s
    stream.close()
    audio.terminate()
    print(json.dumps({"cpu_s": used_s, "blocks": count, "frames": frames, "seconds": lasted_s}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
