"""List the audio files below a folder as a Kaldi map, e.g. of noises or room impulse responses for simulation."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.kaldi import write_map
from espnet_mt_llm.datadir.lists import list_audio


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the folder, e.g. musan/noise")
    parser.add_argument("--out", required=True, help="the map to write, e.g. data/noise.scp")
    args = parser.parse_args()
    found = list_audio(args.root)
    write_map(args.out, found)
    print(f"{args.out}: {len(found)} files")


if __name__ == "__main__":
    main()
