"""List the audio files below a folder as a Kaldi map, e.g. of noises or room impulse responses for simulation."""

import argparse

from espnet_mt_llm.common import command
from espnet_mt_llm.datadir.lists import check_apart, list_audio
from espnet_mt_llm.datadir.maps import write_map


@command
def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the folder, e.g. musan/noise")
    parser.add_argument("--pattern", default="*", metavar="GLOB",
                        help="only files of such a name, e.g. 'noise*.wav', or such a path below the folder: 'a/*.wav'")
    parser.add_argument("--apart_from", metavar="SCP", help="a map made before that may share no file with this one")
    parser.add_argument("--out", required=True, help="the map to write, e.g. data/noise.scp")
    args = parser.parse_args()
    found = list_audio(args.root, args.pattern)
    if args.apart_from:
        check_apart(found, args.root, args.apart_from)
    write_map(args.out, found)
    print(f"{args.out}: {len(found)} files")


if __name__ == "__main__":
    main()
