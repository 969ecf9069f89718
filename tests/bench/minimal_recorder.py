"""The least that PyAudio and soundfile can do: a device recorded to FLAC for some seconds. The peer of the recorder.

python minimal_recorder.py DEVICE SECONDS FILE.flac BUFFER_FRAMES
Prints one line of JSON: CPU seconds after the first block (whole process), blocks, frames, seconds from first to last.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import pyaudio
import soundfile

RATE_HZ = 8000


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(device: str, seconds: float, path: str, buffer_frames: int) -> None:
    audio = pyaudio.PyAudio()
    names = [str(audio.get_device_info_by_index(index)["name"]) for index in range(audio.get_device_count())]
    stream = audio.open(
        rate=RATE_HZ,
        channels=1,
        format=pyaudio.paInt16,
        input=True,
        input_device_index=next(index for index, name in enumerate(names) if device in name),
        frames_per_buffer=buffer_frames,
    )
    blocks = 0
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16", format="FLAC", compression_level=0.25) as file:
        pcm = stream.read(buffer_frames)
        began_s, began_cpu_s = time.monotonic(), cpu_s()
        while time.monotonic() - began_s < seconds:
            file.buffer_write(pcm, "int16")
            blocks += 1
            pcm = stream.read(buffer_frames)
        used_s, lasted_s = cpu_s() - began_cpu_s, time.monotonic() - began_s
    stream.close()
    audio.terminate()
    print(json.dumps({"cpu_s": used_s, "blocks": blocks, "frames": blocks * buffer_frames, "seconds": lasted_s}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
