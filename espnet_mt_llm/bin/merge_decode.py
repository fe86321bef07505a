"""Join the results of all decoding jobs of a directory."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from espnet_mt_llm.common import command


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Write hyp.seglst.json, utt2num_spk and decode.json from the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out_dir", required=True, help="exp/<system>/<step>/<decode>/<set>")
    parser.add_argument("--num_jobs", type=int, default=1)
    parser.add_argument("--command", default="", help="what a user runs to get this result again")
    args = parser.parse_args(argv)

    from espnet_mt_llm.inference.merge import merge

    out = Path(args.out_dir)
    system, step, decode, name = out.parts[-4:] if len(out.parts) >= 4 else ("", "", "", out.name)
    clips = merge(out, args.num_jobs, {"system": system, "step": step, "set": name, "decode": decode,
                                       "model": str(Path(*out.parts[:-2])), "command": args.command})
    print(f"{out}: {clips} clips")


if __name__ == "__main__":
    main()
