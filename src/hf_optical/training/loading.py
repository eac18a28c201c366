"""Data loaders of sentence pairs: their samplers, and the weights of pairs that accelerate repeats."""

from __future__ import annotations

from typing import Any

from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..methods import DistillationCollator
from .config import OTDistillationConfig
from .distributed import pair_weights
from .sampling import LanguageSampler, LengthSampler


class PairLoadingTrainer(Trainer):
    """A [`~transformers.Trainer`] that samples by language, in an order that depends only on seed and epoch."""

    args: OTDistillationConfig
    data_collator: DistillationCollator
    processing_class: Any  # an `OpticalProcessor`

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        # Trainer has no sampler by language, and its sampler by length depends on the global random state.
        seed = self.args.sampling_seed
        if len(self.args.languages) == 1:
            sampler = super()._get_train_sampler(train_dataset)
            if isinstance(sampler, LengthGroupedSampler):
                return LengthSampler(sampler.lengths, sampler.batch_size, seed=seed)
            return sampler
        pairs: Any = self.train_dataset if train_dataset is None else train_dataset
        by_length = self.args.train_sampling_strategy == "group_by_length"
        return LanguageSampler(
            pairs["language"],
            self._train_batch_size * self.args.world_size,
            temperature=self.args.sampling_temperature,
            lengths=pairs[self.args.length_column_name] if by_length else None,
            seed=seed,
        )

    def get_train_dataloader(self) -> DataLoader:
        loader: Any = super().get_train_dataloader()
        # accelerate passes the epoch to the sampler that it finds here, as it does for samplers of its own. Without,
        # several processes that resume in mid-epoch would repeat the first epoch.
        if isinstance(loader.batch_sampler, BatchSamplerShard):
            sampler = getattr(loader.batch_sampler.batch_sampler, "sampler", None)
            if sampler is not None:
                loader.set_sampler(sampler)
        return loader

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        # Batches of several languages are always full, and `batch_rebalance` sees to its own.
        if batches and len(self.args.languages) == 1 and self.args.train_sampling_strategy != "batch_rebalance":
            full = self.args.dataloader_drop_last
            batches[-1] |= {"pair_weights": None if full else pair_weights(len(batches[-1]["index"]))}
        return batches, items

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        # Trainer applies `dataloader_drop_last` to evaluation too, which would miss pairs there.
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, **kwargs | {"is_training": is_training})
        finally:
            self.args.dataloader_drop_last = drop_last
