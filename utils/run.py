#!/usr/bin/env -S python3 -S
r"""Run a command, or the jobs JOB=1:N of one, on this machine; logs get a header and a footer.

usage: run.py [--max-jobs-run m] [--num-threads n] [--gpu g] [--pick all|failed|incomplete]
              [JOB=1:N] log/x.JOB.log command …

JOB is replaced by the job's number in the log's name and in the command, where it stands as a word of its own
(x.JOB.scp, split4/JOB/wav.scp, ${JOB}). Pipes and redirections are given as words of their own: \|, \>file.
As many jobs run at once as there are cores (GPUs with --gpu). The exit code is that of the first failing job;
--pick failed runs again only the jobs whose logs do not end with code 0.
"""
import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

if __name__ == "__main__":
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        sys.exit(__doc__ if not sys.argv[1:] else print(__doc__))
    from espnet_mt_llm.cluster.local import main

    main()
