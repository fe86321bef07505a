"""The task ``sctc``: encoder-only serialized CTC with a talker-count head."""

import argparse

from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_mt_llm.encoders.e_branchformer import EBranchformerStack
from espnet_mt_llm.encoders.registry import SPEECH, speech_encoder
from espnet_mt_llm.models.sctc import Branch, SCTCModel
from espnet_mt_llm.nets.separator import Separator
from espnet_mt_llm.nets.talker_count import TalkerCountHead
from espnet_mt_llm.tasks.base import MultiTalkerTask, build


class SCTCTask(MultiTalkerTask):
    """Arguments to :class:`~espnet_mt_llm.models.sctc.SCTCModel`."""

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the pieces of the model: shared encoder, branches, separator, count head, losses."""
        super().add_task_arguments(parser)
        group = parser.add_argument_group(description="Serialized CTC")
        group.add_argument("--encoder", default="e_branchformer", choices=SPEECH)
        for name, what in (
            ("encoder", "the shared encoder"),
            ("branch", "the upper encoder blocks of each branch; num_blocks: 0 for none"),
            ("separator", "the separator of each branch"), ("count_head", "the talker-count head"),
            ("model", "weights of the losses, pit, detach_count"),
        ):
            group.add_argument(f"--{name}_conf", action=NestedDictAction, default={}, help=f"arguments of {what}")

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> SCTCModel:
        """Build the model; the token list itself goes into ``args``, so that config.yaml is complete."""
        tokens = cls.tokenizer(args).tokens
        args.token_list = tokens
        encoder = build(speech_encoder(args.encoder), args.encoder_conf, "encoder_conf", rate=args.rate)
        # A trained model is loaded without the checkpoint that its encoder began from.
        args.encoder_conf = encoder.saved_conf(args.encoder_conf or {})
        size = encoder.output_size
        branches = []
        for k in range(1, args.max_talkers + 1):
            conf = {"num_blocks": 0, **(args.branch_conf or {})}
            blocks = build(EBranchformerStack, conf, "branch_conf", size, output_size=size, embed=False) \
                if conf["num_blocks"] else None
            separator = build(Separator, args.separator_conf, "separator_conf", size, k)
            branches.append(Branch(separator, k, len(tokens), blocks))
        head = build(TalkerCountHead, args.count_head_conf, "count_head_conf", size, args.max_talkers)
        return build(SCTCModel, args.model_conf, "model_conf", encoder, head, branches, tokens)
