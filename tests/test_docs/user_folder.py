"""A folder like that of a user of the project: configs and tools, data in the right formats, weights as released.

What a command of the pages names and this folder lacks (a checkpoint, a work_dir) is made when the command asks for it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from official_files import official_file, save_official
from pages import REPO, named_blocks
from stand_in_data import make_ade20k, make_coco
from stand_in_downloads import make_bccd_download, make_camvid_download, make_nuclei_download
from stand_in_imagenet import make_imagenet

from mmssmprune.datasets import Settings, make_data_set
from mmssmprune.datasets.prepare_camvid import prepare_camvid
from mmssmprune.engine.runner_setup import load_config

# Released files by the name under which the configs and pages know them, and what official_files.py calls them.
RELEASED = {
    **{f'{level}.pth': f'plain_mamba_{level}' for level in ('l1', 'l2', 'l3')},
    **{'vim_t_midclstok_76p1acc.pth': 'vim_tiny', 'vim_s_midclstok_80p5acc.pth': 'vim_small'},
    **{'vim_t.pth': 'vim_tiny', 'their_upernet_l1.pth': 'plain_mamba_seg_l1'},
    'checkpoints/plain_mamba_l1.pth': 'plain_mamba_l1',
    'vssm1_tiny_0230s_ckpt_epoch_264.pth': 'vmamba_tiny_s1l8',
    'vssm_small_0229_ckpt_epoch_222.pth': 'vmamba_small_s2l15',
    'vssm_base_0229_ckpt_epoch_237.pth': 'vmamba_base_s2l15',
    'mask_rcnn_vssm_fpn_coco_tiny_s_epoch_12.pth': 'vmamba_det_tiny_s1l8',
    'upernet_vssm_4xb4-160k_ade20k-512x512_tiny_s_iter_160000.pth': 'vmamba_seg_tiny_s1l8',
    'downloads/vmamba_t_coco.pth': 'vmamba_det_tiny_s1l8',
    'downloads/vmamba_t_ade20k.pth': 'vmamba_seg_tiny_s1l8',
    'downloads/plain_mamba_l1_coco.pth': 'plain_mamba_adapter_l1',
    'downloads/plain_mamba_l1_ade20k.pth': 'plain_mamba_seg_l1',
}


def make_user_folder(root: Path) -> Path:
    """The folder, without weights."""
    for name in ('configs', 'tools'):
        (root / name).symlink_to(REPO / name)
    plans = 'mmssmprune/analysis/evidence'  # those that pages name
    (root / plans).mkdir(parents=True)
    (root / plans / 'study.py').symlink_to(REPO / plans / 'study.py')
    shutil.copytree(REPO / 'docs', root / 'docs')  # evidence.py writes here
    for name, code in named_blocks(REPO / 'docs/extend.md').items():
        (root / name).write_text(code)
    make_imagenet(make_ade20k(make_coco(root / 'data')))
    for name in ('mini_coco', 'mini_ade'):
        make_data_set(name, root / 'data' / name, Settings(128, 2, 1, 0))
    for name in ('disk', 'wheels'):
        (root / name).mkdir()
    (root / 'disk/ADEChallengeData2016').symlink_to(root / 'data/ade/ADEChallengeData2016')
    return root


def provide_photos(root: Path, name: str, source: str) -> None:
    """A download of a set of photographs at ``source``, which ends as the publisher's folder, and nothing in data/."""
    make = dict(camvid=make_camvid_download, nuclei=make_nuclei_download, bccd=make_bccd_download)[name]
    shutil.rmtree(root / 'data' / name, ignore_errors=True)
    shutil.rmtree(root / source, ignore_errors=True)
    assert make((root / source).parent) == root / source


def provide_camvid(root: Path) -> None:
    """The prepared folder."""
    if not (root / 'data/camvid').exists():
        prepare_camvid(make_camvid_download(root / 'downloads'), root / 'data/camvid')


def provide_released(root: Path, name: str) -> None:
    """A released file under this name, with random weights of its layout."""
    path = root / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_official(official_file(RELEASED[name]), path)


def provide_download(root: Path, name: str) -> None:
    """The same in torch's cache, as after a first download with TORCH_HOME=``root``/torch."""
    provide_released(root, name)
    cached = root / 'torch/hub/checkpoints' / name
    cached.parent.mkdir(parents=True, exist_ok=True)
    if not cached.exists():
        cached.symlink_to(root / name)


def provide_checkpoint(root: Path, path: str, config: str, cfg_options: dict | None = None) -> None:
    """A checkpoint of a config's model with random weights, as training leaves one."""
    if not (root / path).exists():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        model = build(load_config(str(root / config), cfg_options))
        torch.save(dict(state_dict=model.state_dict(), meta={}), root / path)


def provide_work_dir(root: Path, name: str, config: str) -> None:
    """What training a config leaves in ``work_dirs/name``."""
    folder = root / 'work_dirs' / name
    if not (folder / 'last_checkpoint').exists():
        provide_checkpoint(root, f'work_dirs/{name}/iter_1.pth', config)
        (folder / 'last_checkpoint').write_text(str(folder / 'iter_1.pth'))
        Config.fromfile(root / config).dump(folder / Path(config).name)


def provide_comparison(root: Path, folder: str) -> None:
    """What `tools/compare.py --out folder` leaves, with rows of its own: of a task, and some of the example's."""
    path = root / folder / 'compare.json'
    if path.exists():
        return
    task, _, part = Path(folder).name.partition('-')
    content = json.loads((REPO / 'docs/example_comparison/compare.json').read_text())
    wanted = {'coco': 'detection', 'ade20k': 'segmentation'}[task]
    content['tables'] = [table for table in content['tables'] if table['task'] == wanted]
    (table,) = content['tables']
    table['rows'] = {'': table['rows'][:1], '10': table['rows'][1:3], 'pruned': table['rows'][3:]}[part]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def build(cfg: Config) -> torch.nn.Module:
    """The model of a config with random weights; a plan need not be solved for its weights."""
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.pop('pruning', None)
    return MODELS.build(cfg.model)
