"""The ImageNet configs train and predict, say what the recipes say, and give the logits of the official classifiers."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import golden_weights as gw
import numpy as np
import pytest
import torch
from golden_families import as_pairs, image, sha256
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, PARAM_SCHEDULERS, init_default_scope
from stand_in_imagenet import make_imagenet, shrink

from mmssmprune.engine.runner_setup import load_config
from mmssmprune.models.flops import count_on_meta, on_meta

pytest.importorskip('mmpretrain')

REPO = Path(__file__).resolve().parents[2]
IN1K = {path.stem: path for path in (REPO / 'configs').glob('*/*_in1k.py')}
# Config -> share of FLOPs that it saves, the dense config, parameters of the official model with its head.
PRUNED = {
    'plain-mamba-l1-flops42-finetune_8xb64-30e_in1k': (0.416, 'plain-mamba-l1_8xb256_in1k', 7_551_656),
    'plain-mamba-l2-flops42-finetune_8xb64-30e_in1k': (0.416, 'plain-mamba-l2_8xb256_in1k', 26_145_832),
    'plain-mamba-l3-flops42-finetune_8xb64-30e_in1k': (0.416, 'plain-mamba-l3_4xb256_in1k', 50_956_456),
    'vim-t-flops11-finetune_8xb64-30e_in1k': (1 - 1.29 / 1.45, 'vim-t_8xb128_in1k', 7_148_008),
    'vim-s-flops29-finetune_8xb64-30e_in1k': (1 - 3.60 / 5.08, 'vim-s_8xb64_in1k', 25_796_584),
    'vmamba-t-flops30-finetune_8xb64-30e_in1k': (0.3, 'vmamba-t_8xb128_in1k', 30_249_064),
}
# Dense configs whose pruned twins there are none of, with the parameters of the official model.
DENSE_ONLY = {'vmamba-s_8xb128_in1k': 50_147_752, 'vmamba-b_8xb128_in1k': 88_557_800}
GOLDEN = {
    'pm_l1_full_224': 'plain-mamba-l1_8xb256_in1k',
    'vim_t_full_224': 'vim-t_8xb128_in1k',
    'vim_s_d2_64': 'vim-s_8xb64_in1k',
    'vim_t_d2_64_doublecls': 'vim-t_8xb128_in1k',
    'vim_t_d2_64_headcls_nodiv': 'vim-t_8xb128_in1k',
    'vim_t_d2_80_nocls_mean': 'vim-t_8xb128_in1k',
}


@pytest.fixture(scope='module')
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_imagenet(tmp_path_factory.mktemp('data'))


def load(name: str) -> Config:
    cfg = load_config(str(IN1K[name]))
    init_default_scope(cfg.default_scope)
    return cfg


def test_every_other_dense_config_has_a_pruned_one():
    assert IN1K.keys() == PRUNED.keys() | {dense for _, dense, _ in PRUNED.values()} | DENSE_ONLY.keys()


def train_a_step(model: torch.nn.Module, cfg: Config) -> None:
    """One optimizer step on a batch that the config's own pipeline, mixing included, has made."""
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    data = model.data_preprocessor(pseudo_collate([dataset[0], dataset[1]]), training=True)
    assert data['inputs'].shape == (2, 3, 64, 64)
    assert data['data_samples'][0].gt_score.shape == (1000,)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert torch.isfinite(loss)
    loss.backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    optim_wrapper.step()
    moved = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert any(name.startswith(f'backbone.layers.{len(model.backbone.layers) - 1}.') for name in moved)


@torch.no_grad()
def predict(model: torch.nn.Module, cfg: Config) -> None:
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    (sample,) = model.eval().test_step(pseudo_collate([dataset[2]]))
    assert sample.pred_score.shape == (1000,)
    assert sample.pred_score.sum() == pytest.approx(1, abs=1e-4)
    assert sample.gt_label.item() == dataset.get_data_info(2)['gt_label']


# Up to 10 s each; the larger models of a family are slow.
@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if re.search('-(l1|t)[-_]', name) else pytest.mark.slow) for name in IN1K]
)
def test_trains_predicts_and_meets_its_target(name: str, stand_in: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', str(stand_in))
    cfg = shrink(load(name))
    model = MODELS.build(copy.deepcopy(cfg.model))
    train_a_step(model, cfg)
    predict(model, cfg)
    count = sum(parameter.numel() for parameter in model.parameters())
    if name not in PRUNED:
        assert count == DENSE_ONLY.get(name, count)
        return
    target, dense, parameters = PRUNED[name]
    assert count == parameters
    backbone = on_meta(model.backbone)
    dense_backbone = on_meta(MODELS.build(load(dense).model.backbone))
    reduction = 1 - count_on_meta(backbone, (224, 224)) / count_on_meta(dense_backbone, (224, 224))
    assert reduction == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize('name', PRUNED)
def test_pruned_config_changes_only_the_pruning_and_the_schedule(name: str):
    pruned, dense = (load_config(str(IN1K[n])).to_dict() for n in (name, PRUNED[name][1]))
    pruning = pruned['model']['backbone'].pop('pruning')
    assert pruning.get('alignment', 'carry') == 'carry'
    assert pruning['input_shape'] == (224, 224)
    assert pruned['model']['backbone'].pop('drop_path_rate') == 0
    dense['model']['backbone'].pop('drop_path_rate')
    for part in ('model', 'val_dataloader', 'test_evaluator', 'default_scope'):
        assert pruned[part] == dense[part], part
    assert pruned['train_dataloader'].pop('batch_size') == 64
    dense['train_dataloader'].pop('batch_size')
    assert pruned['train_dataloader'] == dense['train_dataloader']
    assert pruned['train_cfg']['max_epochs'] == 30
    assert pruned.get('custom_hooks', []) == []


def rates(cfg: Config, epoch_length: int = 2) -> list[float]:
    """Learning rate in every iteration of the config's schedule."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = []
    for scheduler in cfg.param_scheduler:
        assert scheduler.by_epoch
        assert scheduler.convert_to_iter_based
        settings = {key: scheduler[key] for key in scheduler if key not in ('type', 'convert_to_iter_based')}
        kind = PARAM_SCHEDULERS.get(scheduler.type)
        schedulers.append(kind.build_iter_from_epoch(optimizer=optimizer, epoch_length=epoch_length, **settings))
    seen = []
    for _ in range(cfg.train_cfg.max_epochs * epoch_length):
        seen.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return seen


@pytest.mark.parametrize(
    ('name', 'peak', 'last', 'warmup', 'batch', 'images'),
    [
        ('plain-mamba-l1_8xb256_in1k', 2e-3, 2e-5, 15, 256, 2048),
        ('plain-mamba-l2_8xb256_in1k', 2e-3, 2e-5, 20, 256, 2048),
        ('plain-mamba-l3_4xb256_in1k', 1e-3, 1e-5, 20, 256, 1024),
        ('vim-t_8xb128_in1k', 1e-3, 1e-5, 5, 128, 1024),
        ('vim-s_8xb64_in1k', 1e-3, 1e-5, 5, 64, 512),
        ('vmamba-t_8xb128_in1k', 1e-3, 1e-5, 20, 128, 1024),
    ],
)
def test_learning_rate_of_the_recipe(name: str, peak: float, last: float, warmup: int, batch: int, images: int):
    cfg = load(name)
    seen = rates(cfg)
    assert len(seen) == 600
    assert seen[0] == pytest.approx(peak / 1000)
    assert max(seen) == pytest.approx(peak)
    assert seen.index(max(seen)) == pytest.approx(2 * warmup, abs=2)
    assert seen[-1] == pytest.approx(last, rel=0.05)
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.auto_scale_lr.base_batch_size == images


def test_learning_rate_of_the_fine_tuning():
    seen = rates(load('vim-s-flops29-finetune_8xb64-30e_in1k'))
    assert seen[0] == pytest.approx(1e-5)
    assert min(seen) == pytest.approx(5e-6, rel=0.02)
    assert seen.index(min(seen)) == pytest.approx(10, abs=1)
    assert seen[-1] == pytest.approx(1e-5, rel=0.02)


def decays(name: str) -> dict[str, float]:
    """Weight decay of every parameter of the config's model."""
    cfg = load(name)
    model = MODELS.build(cfg.model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    return {names[id(p)]: group['weight_decay'] for group in optimizer.param_groups for p in group['params']}


def test_weight_decay_of_plain_mamba():
    decay = decays('plain-mamba-l1_8xb256_in1k')
    layer = 'backbone.layers.3.mamba'
    free = ['backbone.pos_embed', 'backbone.ln1.weight', 'head.fc.bias']
    free += [f'{layer}.{part}' for part in ('A_log', 'D', 'direction_Bs', 'dt_proj.bias')]
    assert {decay[name] for name in free} == {0}
    assert decay[f'{layer}.in_proj.weight'] == decay['head.fc.weight'] == 0.05


def test_weight_decay_of_vim():
    """As timm's: one dimension, embeddings and class tokens are spared, A_log is not."""
    for name, value in decays('vim-t_8xb128_in1k').items():
        spared = name in ('backbone.pos_embed', 'backbone.cls_token') or name.endswith(('bias', '.D', '.D_b'))
        spared = spared or '.norm' in name
        assert value == (0 if spared else 0.1), name


def test_weight_decay_of_vmamba():
    """What has one dimension is spared; A_logs and dt_projs_bias have two."""
    decay = decays('vmamba-t_8xb128_in1k')
    block = 'backbone.layers.2.blocks.3'
    free = ['patch_embed.0.bias', 'patch_embed.2.weight', 'layers.0.downsample.3.weight', 'outnorm3.weight']
    free = [f'backbone.{name}' for name in free] + ['head.fc.bias']
    free += [f'{block}.{part}' for part in ('norm.weight', 'mlp.fc1.bias', 'op.Ds', 'op.out_norm.weight')]
    assert {decay[name] for name in free} == {0}
    parts = ('A_logs', 'dt_projs_bias', 'dt_projs_weight', 'x_proj_weight', 'in_proj.weight', 'conv2d.weight')
    assert {decay[f'{block}.op.{part}'] for part in parts} == {0.05}
    assert decay['backbone.patch_embed.0.weight'] == decay['head.fc.weight'] == 0.05


def test_averages_of_the_weights():
    hooks = {name: load(name).get('custom_hooks', []) for name in IN1K}
    momentum = {name: hook[0].momentum for name, hook in hooks.items() if hook}
    assert momentum == {
        'plain-mamba-l2_8xb256_in1k': 1e-4,
        'plain-mamba-l3_4xb256_in1k': 1e-4,
        'vim-t_8xb128_in1k': 4e-5,
        'vim-s_8xb64_in1k': 4e-5,
        'vmamba-t_8xb128_in1k': 1e-4,
        'vmamba-s_8xb128_in1k': 1e-4,
        'vmamba-b_8xb128_in1k': 1e-4,
    }


def test_data_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv('MMSSMPRUNE_DATA_ROOT', raising=False)
    assert load('vim-t_8xb128_in1k').train_dataloader.dataset.data_root == 'data/imagenet'
    monkeypatch.setenv('MMSSMPRUNE_DATA_ROOT', '/big disk/sets')
    assert load('vim-t_8xb128_in1k').test_dataloader.dataset.data_root == '/big disk/sets/imagenet'


def golden_config(name: str, settings: dict) -> Config:
    """The config with the settings of a golden case: official names of the classes' arguments to ours."""
    cfg = load(name)
    ours = dict(depth='num_layers', embed_dim='embed_dims')
    for key, value in settings.items():
        if key not in ('kind', 'dwconv_layers', 'num_convs'):  # of PlainMamba-L1, whose config says so already
            cfg.model.backbone[ours.get(key, key)] = value
    if settings.get('if_cls_token') is False:
        cfg.model.backbone.out_type = 'avg_featmap'
    return cfg


def our_key(key: str) -> str:
    """PlainMamba's official keys are ours; Vim's have no prefix, and its head is one layer."""
    if key.startswith(('backbone.', 'head.fc.')):
        return key
    return key.replace('head.', 'head.fc.') if key.startswith('head.') else f'backbone.{key}'


@pytest.mark.parametrize(('case', 'name'), GOLDEN.items())
def test_logits_of_the_official_classifier(case: str, name: str):
    with np.load(REPO / 'tests' / 'data' / 'golden' / f'{case}.npz') as arrays:
        meta, logits = json.loads(arrays['meta'].tobytes()), arrays['logits']
    weights = gw.make_weights(dict(as_pairs(meta['keys'])), meta['seed'])
    assert sha256(weights) == meta['weights_sha256']
    model = MODELS.build(golden_config(name, meta['config']).model)
    model.load_state_dict({our_key(key): torch.from_numpy(value) for key, value in weights.items()}, strict=True)
    with torch.no_grad():
        ours = model.double().eval()(image(meta, torch.float64), mode='tensor').numpy()
    limit = {'float32': 1e-6, 'float64': 1e-10}[logits.dtype.name]
    assert np.abs(ours - logits).max() <= limit * np.abs(logits).max()
