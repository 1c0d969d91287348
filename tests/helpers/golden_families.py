"""How each family of golden cases is built and run: config keys of the official classes to ours, and what to record.

A builder takes ``(config, meta, arrays)`` and returns a `Subject`. An unknown config key is an error, so that a case is
never compared on half of its settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from unittest.mock import patch

import golden_weights as gw
import torch
from torch import Tensor, nn

from mmssmprune.models import PlainMamba, PlainMambaAdapter, Vim, VMamba
from mmssmprune.models.layers.deformable_attention import MSDeformAttn, grid_reference_points
from mmssmprune.models.layers.plain_mamba_layer import PlainMambaMixer
from mmssmprune.models.layers.vim_block import VimMixer
from mmssmprune.models.layers.vmamba_resampling import VMambaPatchEmbed, make_downsample
from mmssmprune.models.layers.vss_block import SS2D, VSSBlock
from mmssmprune.ops import multi_scan, selective_scan
from mmssmprune.pruning import RawDelta, TokenState, line_scan, sequence_scan, snake_scan


@dataclass
class Subject:
    """A module with loaded weights (None for bare operators) and a run that maps inputs to named outputs."""

    module: nn.Module | None
    inputs: dict[str, Tensor]
    run: Callable[[dict[str, Tensor]], dict[str, Tensor]]


def take(config: dict, **names: str) -> dict:
    """Rename the known keys ``official=ours`` that occur; whatever else stands in ``config`` is an error."""
    unknown = set(config) - set(names)
    if unknown:
        raise KeyError(f'golden case with unknown config keys {sorted(unknown)}; known are {sorted(names)}')
    return {ours: config[official] for official, ours in names.items() if official in config}


def load(module: nn.Module, meta: dict, dtype: torch.dtype) -> nn.Module:
    """Draw the case's weights, check that they are the ones meant, load them strictly."""
    weights = gw.make_weights(dict(as_pairs(meta['keys'])), meta['seed'])
    assert sha256(weights) == meta['weights_sha256'], 'this NumPy draws other weights'
    module.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=True)
    return module.to(dtype).train(meta.get('mode') == 'train')


def as_pairs(keys) -> list[tuple[str, tuple[int, ...]]]:
    """Keys are stored as a dict or as pairs."""
    return list(keys.items()) if isinstance(keys, dict) else [(k, tuple(s)) for k, s in keys]


def sha256(weights: dict) -> str:
    import hashlib

    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].tobytes())
    return digest.hexdigest()


def image(meta: dict, dtype: torch.dtype) -> Tensor:
    """The case's input, drawn by its recipe."""
    import hashlib

    x = gw.make_input(meta['input_name'], meta['input_shape'], meta['seed'])
    assert hashlib.sha256(x.tobytes()).hexdigest() == meta['input_sha256'], 'this NumPy draws another input'
    return torch.from_numpy(x).to(dtype).requires_grad_()


class Recorder:
    """Collects what modules return while a model runs."""

    def __init__(self):
        self.seen: dict[str, Tensor | list[Tensor]] = {}

    def output(self, module: nn.Module, name: str, pick: Callable = lambda out: out, many: bool = False) -> None:
        def hook(_, args, out):
            self._add(name, pick(out), many)

        module.register_forward_hook(hook)

    def first_input(self, module: nn.Module, name: str) -> None:
        module.register_forward_pre_hook(lambda _, args: self._add(name, args[0], False))

    def _add(self, name: str, value: Tensor, many: bool) -> None:
        if many:
            self.seen.setdefault(name, []).append(value)
        else:
            self.seen[name] = value


class PlainMambaClassifier(nn.Module):
    """Mean over the normalised tokens, then a linear head, with the official keys."""

    def __init__(self, num_classes: int = 1000, **kwargs):
        super().__init__()
        self.backbone = PlainMamba(**kwargs)
        self.head = nn.ModuleDict({'fc': nn.Linear(self.backbone.embed_dims, num_classes)})

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits."""
        return self.head['fc'](self.backbone(images)[-1].mean((2, 3)))


MIXER_KEYS = {k: k for k in ('d_state', 'expand', 'conv_size', 'dt_rank', 'bias', 'conv_bias', 'param_order')}


def build_plain_mamba(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """PlainMamba as classifier, bare, for segmentation, or with the adapter."""
    config = dict(config)
    kind = config.pop('kind', None)
    mixer_cfg = take({k: config.pop(k) for k in list(config) if k in MIXER_KEYS}, **MIXER_KEYS)
    names = dict(depth='num_layers', num_layers='num_layers', embed_dims='embed_dims', embed_dim='embed_dims')
    names.update(num_convs='num_convs', dwconv_layers='layers_with_dwconv', layers_with_dwconv='layers_with_dwconv')
    names.update({k: k for k in ('out_indices', 'final_norm', 'img_size', 'patch_size', 'in_channels', 'num_classes')})
    names.update({k: k for k in ('deform_num_heads', 'deform_ratio', 'interaction_indexes', 'n_points')})
    names.update({k: k for k in ('conv_inplane', 'cffn_ratio', 'add_vit_feature', 'drop_path_rate')})
    kwargs = dict(take(config, **names), mixer_cfg=mixer_cfg)
    kwargs.setdefault('layers_with_dwconv', ())
    kwargs.setdefault('arch', {})
    makers = {'classifier': PlainMambaClassifier, 'adapter': PlainMambaAdapter, 'seg': PlainMamba, None: PlainMamba}
    module = load(makers[kind](**kwargs), meta, dtype)
    backbone = getattr(module, 'backbone', module)
    rec = Recorder()
    rec.output(backbone, 'maps')
    rec.output(backbone.patch_embed, 'patch', pick=lambda out: out[0])
    for layer in backbone.layers:
        rec.output(layer, 'layers', pick=lambda out: out[0], many=True)
    if kind == 'adapter':
        record_adapter(rec, backbone)
    else:
        rec.first_input(backbone.layers[0], 'embed')

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        rec.seen.clear()
        out = module(inputs['input'])
        maps = rec.seen.pop('maps')
        named = {f'out{i}': o for i, o in enumerate(maps)}
        if kind == 'classifier':
            named['logits'] = out
        if kind != 'adapter':
            last = rec.seen['layers'][-1]
            named['final'] = backbone.ln1(last) if hasattr(backbone, 'ln1') else last
        return named | rec.seen

    return Subject(module, {'input': image(meta, dtype)}, run)


def record_adapter(rec: Recorder, backbone: PlainMambaAdapter) -> None:
    """Record the spatial prior, the embedding before the first injector, and c after each interaction."""
    for i in range(4):
        rec.output(backbone.spm, f'spm{i}', pick=lambda out, i=i: out[i])
    rec.first_input(backbone.interactions[0].injector, 'embed')
    for i, interaction in enumerate(backbone.interactions):
        last = interaction.extra_extractors[-1] if interaction.extra_extractors else interaction.extractor
        rec.output(last, f'inter_c{i}')


class VimClassifier(Vim):
    """Vim with the official classification head on the class token(s), or on the mean token."""

    def __init__(self, num_classes: int = 1000, **kwargs):
        super().__init__(**kwargs)
        self.head = nn.Linear(self.embed_dims, num_classes)


def build_vim(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """Vim as classifier or with its segmentation pyramid."""
    config = dict(config)
    seg = config.pop('kind', None) == 'seg'
    own = dict(d_state='d_state', expand='expand', d_conv='d_conv', dt_rank='dt_rank', conv_bias='conv_bias')
    own.update(bias='bias', ssm_expand='expand')
    mixer_cfg = take({k: config.pop(k) for k in list(config) if k in own}, **own)
    names = dict(depth='num_layers', num_layers='num_layers', embed_dim='embed_dims', embed_dims='embed_dims')
    names.update(if_devide_out='if_divide_out')
    same = ('img_size', 'patch_size', 'stride', 'in_channels', 'out_indices', 'if_cls_token', 'use_middle_cls_token')
    names.update({k: k for k in (*same, 'use_double_cls_token', 'if_divide_out', 'drop_path_rate', 'num_classes')})
    kwargs = dict(take(config, **names), mixer_cfg=mixer_cfg, arch={})
    if seg:
        kwargs.setdefault('if_cls_token', False)
    module = Vim(with_fpn=True, **kwargs) if seg else VimClassifier(**kwargs)
    module = load(module, meta, dtype)
    rec = Recorder()
    rec.output(module.patch_embed, 'patch', pick=lambda out: out[0])
    rec.first_input(module.layers[0], 'embed')
    rec.output(module.norm_f, 'final_tokens')
    for block in module.layers:
        rec.output(block, 'hidden', pick=lambda out: out[0], many=True)
        rec.output(block, 'residual', pick=lambda out: out[1], many=True)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        rec.seen.clear()
        out = module(inputs['input'])
        if seg:
            return {f'out{i}': o for i, o in enumerate(out)} | rec.seen
        final = rec.seen['final_tokens']
        cls = list(module.class_token_places((1, final.shape[1] - module.num_extra_tokens)))
        feat = (final[:, cls] if cls else final).mean(1)
        return {'feat': feat, 'logits': module.head(feat)} | rec.seen

    return Subject(module, {'input': image(meta, dtype)}, run)


def build_plain_mamba_mixer(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """One PlainMamba mixer alone, with the results of its four scans."""
    kwargs = take(config, d_model='embed_dims', hw='hw', **MIXER_KEYS)
    hw = tuple(kwargs.pop('hw'))
    module = load(PlainMambaMixer(**kwargs), meta, dtype)
    tokens = TokenState.dense(snake_scan(*hw), hw)

    def alone(r: int, u: Tensor, raw_delta: RawDelta, B: Tensor, C: Tensor) -> Tensor:
        """Direction r without a gate, (B, D, K) in scan order."""
        order = tokens.scan_order.order[r]
        at_home = module.scan(u, raw_delta, B, C, None, replace(tokens, scan_order=tokens.scan_order.direction(r)))
        return at_home.y[:, order].transpose(1, 2)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        with patch.object(module, 'scan', wraps=module.scan) as scan:
            out, _ = module(inputs['input'], tokens)
        u, raw_delta, B, C, _, _ = scan.call_args.args
        return {'out': out} | {f'scan{r}': alone(r, u, raw_delta, B, C) for r in range(4)}

    return Subject(module, {'input': image(meta, dtype)}, run)


def build_vim_mixer(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """One Vim mixer alone, with its gated branches, the backward one in reversed order."""
    own = ('d_state', 'expand', 'd_conv', 'dt_rank', 'bias', 'conv_bias', 'if_divide_out')
    kwargs = take(config, d_model='embed_dims', length='length', if_devide_out='if_divide_out', **{k: k for k in own})
    length = kwargs.pop('length')
    module = load(VimMixer(**kwargs), meta, dtype)
    tokens = TokenState.dense(sequence_scan(length), (1, length))

    def alone(r: int, z: Tensor, u: Tensor, raw_delta: RawDelta, B: Tensor, C: Tensor) -> Tensor:
        """Branch r with its gate, (B, K, D) in sequence order."""
        A, D = (module.A_b_log, module.D_b) if r else (module.A_log, module.D)
        order = tokens.scan_order.order[r : r + 1]
        return multi_scan(u, raw_delta.raw, -torch.exp(A), B, C, D, z, raw_delta.bias, order=order)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x, z = module.in_proj(inputs['input']).chunk(2, dim=-1)
        forward, backward = (alone(r, z, *module.branch(x, tokens, r)) for r in (0, 1))
        out, _ = module(inputs['input'], tokens)
        named = {'out': out, 'branch_forward': forward.transpose(1, 2)}
        return named | {'branch_backward': backward.flip(1).transpose(1, 2)}

    return Subject(module, {'input': image(meta, dtype)}, run)


def build_ms_deform_attn(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """Multi-scale deformable attention alone."""
    names = dict(d_model='embed_dims', heads='num_heads', points='n_points', ratio='ratio')
    kwargs = take(config, levels='levels', queries='queries', **names)
    levels, queries = [tuple(s) for s in kwargs.pop('levels')], kwargs.pop('queries')
    grids = [tuple(s) for s in queries] if isinstance(queries[0], list) else [tuple(queries)]
    module = load(MSDeformAttn(n_levels=len(levels), **kwargs), meta, dtype)
    drawn = {k: gw.make_input(f'{meta["case"]}/{k}', meta[f'{k}_shape'], meta['seed']) for k in ('query', 'feat')}
    inputs = {k: torch.from_numpy(v).to(dtype).requires_grad_() for k, v in drawn.items()}

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        points = grid_reference_points(grids, inputs['query'])
        return {'reference_points': points, 'out': module(inputs['query'], points, inputs['feat'], levels)}

    return Subject(module, inputs, run)


def build_selective_scan(config: dict, meta: dict, arrays: dict, dtype: torch.dtype, backend: str) -> Subject:
    """The bare operator. The last state is read through one-hot output vectors."""
    known = ('batch', 'd_state', 'dim', 'length', 'softplus', 'with_D', 'with_bias', 'with_z')
    config = SimpleNamespace(**take(config, **{k: k for k in known}))
    names = [k for k in ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias') if f'in_{k}' in arrays]
    inputs = {k: torch.from_numpy(arrays[f'in_{k}']).to(dtype).requires_grad_() for k in names}

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        out = selective_scan(**inputs, delta_softplus=config.softplus, backend=backend)
        bare = {k: v for k, v in inputs.items() if k not in ('C', 'D', 'z')}
        one_hot = torch.eye(inputs['A'].shape[1], dtype=dtype)
        states = [
            selective_scan(**bare, C=e[None, :, None].expand_as(inputs['C']), delta_softplus=config.softplus)[:, :, -1]
            for e in one_hot
        ]
        return {'out': out, 'last_state': torch.stack(states, -1)}

    return Subject(None, inputs, run)


def build_plain_mamba_scan_orders(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """The four snakes of every grid."""
    grids = take(config, grids='grids')['grids']

    def run(_: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {}
        for height, width in grids:
            path = snake_scan(height, width)
            size = f'{height}x{width}'
            named |= {f'order_{size}': path.order, f'inverse_{size}': path.step, f'direction_{size}': path.move}
        return named

    return Subject(None, {}, run)


class VMambaClassifier(VMamba):
    """VMamba with the official classification head, whose norm is the one of the last map."""

    def __init__(self, num_classes: int = 1000, **kwargs):
        super().__init__(out_indices=-1, **kwargs)
        last = len(self.depths) - 1
        norm = self._modules.pop(f'outnorm{last}')
        self.__dict__[f'outnorm{last}'] = norm  # found by its name, but saved as the classifier's
        self.classifier = nn.ModuleDict({'norm': norm, 'head': nn.Linear(self.embed_dims[-1], num_classes)})


FORWARD_TYPES = {'v05_noz': False, 'v3_noz': False, 'v05': True, 'v0': True}  # whether there is a gate


def vmamba_settings(config: dict, prefix: str = '') -> dict:
    """Settings of the mixer from the official ones, which are taken out of ``config``."""
    names = {f'{prefix}d_state': 'd_state', f'{prefix}dt_rank': 'dt_rank', 'ssm_ratio': 'ssm_ratio'}
    names |= {'ssm_conv': 'conv_size', 'ssm_conv_bias': 'conv_bias'} if prefix else {}
    names |= {} if prefix else {'d_conv': 'conv_size', 'conv_bias': 'conv_bias'}
    config['gated'] = FORWARD_TYPES[config.pop('forward_type')]
    assert config.pop('norm_layer') in ('ln', 'ln2d')  # a layout, which is no matter here
    names['gated'] = 'gated'
    return {ours: config.pop(official) for official, ours in names.items()}


def as_map(x: Tensor, hw: tuple[int, int]) -> Tensor:
    """(B, L, C) -> (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, hw)


def build_ss2d(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """One SS2D alone, with what each direction adds."""
    config = dict(config)
    settings = vmamba_settings(config)
    module = load(SS2D(**take(config, d_model='embed_dims'), **settings), meta, dtype)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x = inputs['input']
        hw = tuple(x.shape[2:])
        tokens = replace(TokenState.dense(line_scan(*hw), hw), wants_directions=True)
        out, trace = module(x.flatten(2).transpose(1, 2), tokens)
        named = {'out': as_map(out, hw), 'merged': as_map(trace.y, hw)}
        orders = zip(trace.directions, tokens.scan_order.order, strict=True)
        return named | {f'scan{r}': y[:, order].transpose(1, 2) for r, (y, order) in enumerate(orders)}

    return Subject(module, {'input': image(meta, dtype)}, run)


def build_vss_block(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """One block, with the output of its mixer."""
    config = dict(config)
    settings = vmamba_settings(config, 'ssm_')
    kwargs = take(config, hidden_dim='embed_dims', mlp_ratio='mlp_ratio')
    module = load(VSSBlock(mixer_cfg=settings, **kwargs), meta, dtype)
    rec = Recorder()
    rec.output(module.op, 'ssm', pick=lambda out: out[0])

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x = inputs['input']
        hw = tuple(x.shape[2:])
        out, _ = module(x.flatten(2).transpose(1, 2), TokenState.dense(line_scan(*hw), hw))
        return {'out': as_map(out, hw), 'ssm': as_map(rec.seen['ssm'], hw)}

    return Subject(module, {'input': image(meta, dtype)}, run)


def run_what_is_not_returned(module: VMamba, rec: Recorder) -> None:
    """The official class runs the stages after the last one that is returned as well."""
    for i in range(module.out_indices[-1] + 1, len(module.layers)):
        x = rec.seen[f's{i - 1}b{module.depths[i - 1] - 1}'].permute(0, 2, 3, 1)
        x = module.layers[i - 1]['downsample'](x)
        tokens = TokenState.dense(line_scan(*x.shape[1:3]), tuple(x.shape[1:3]))
        x = x.flatten(1, 2)
        for block in module.layers[i]['blocks']:
            x, _ = block(x, tokens)


def build_vmamba(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """VMamba as backbone or classifier, with every block and downsampling."""
    config = dict(config)
    kind = config.pop('kind')
    settings = vmamba_settings(config, 'ssm_')
    names = dict(dims='embed_dims', downsample_version='downsample_version', patchembed_version='patch_embed_version')
    names |= {k: k for k in ('depths', 'mlp_ratio', 'drop_path_rate', 'out_indices', 'num_classes')}
    kwargs = take(config, **names)
    module = {'backbone': VMamba, 'classifier': VMambaClassifier}[kind](arch={}, **kwargs, **settings)
    module = load(module, meta, dtype)
    rec = Recorder()
    rec.output(module, 'maps')
    rec.output(module.patch_embed, 'patch', pick=lambda out: as_map(*out))
    hw = tuple(meta['input_shape'][2:])
    for i, layer in enumerate(module.layers):
        hw = module.layers[i - 1]['downsample'].grid_of(hw) if i else module.patch_embed.grid_of(hw)
        for j, block in enumerate(layer['blocks']):
            rec.output(block, f's{i}b{j}', pick=lambda out, hw=hw: as_map(out[0], hw))
        if 'downsample' in layer:
            rec.output(layer['downsample'], f'down{i}', pick=lambda out: out.permute(0, 3, 1, 2))

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        rec.seen.clear()
        module(inputs['input'])
        maps = rec.seen.pop('maps')
        run_what_is_not_returned(module, rec)
        if kind == 'backbone':
            return {f'out{i}': o for i, o in enumerate(maps)} | rec.seen
        feat = maps[-1].mean((2, 3))
        return {'feat': feat, 'logits': module.classifier['head'](feat)} | rec.seen

    return Subject(module, {'input': image(meta, dtype)}, run)


def build_vmamba_patch_embed(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """The patch embedding alone."""
    names = dict(in_chans='in_channels', embed_dim='embed_dims', patchembed_version='version', norm_layer='norm_layer')
    kwargs = take(config, **names, patch_size='patch_size', patch_norm='patch_norm')
    assert kwargs.pop('norm_layer') in ('ln', 'ln2d')
    module = load(VMambaPatchEmbed(**kwargs), meta, dtype)
    return Subject(module, {'input': image(meta, dtype)}, lambda inputs: {'out': as_map(*module(inputs['input']))})


def build_vmamba_downsample(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """A downsampling alone."""
    names = dict(dim='embed_dims', out_dim='out_dims', downsample_version='version', norm_layer='norm_layer')
    kwargs = take(config, **names)
    assert kwargs.pop('norm_layer') in ('ln', 'ln2d')
    module = load(make_downsample(**kwargs), meta, dtype)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {'out': module(inputs['input'].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)}

    return Subject(module, {'input': image(meta, dtype)}, run)


def build_vmamba_scan_orders(config: dict, meta: dict, arrays: dict, dtype: torch.dtype) -> Subject:
    """The four directions of every grid, and the sum of all at the cells."""
    grids = take(config, grids='grids')['grids']

    def run(_: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {}
        for height, width in grids:
            lines, size = line_scan(height, width), f'{height}x{width}'
            named |= {f'order_{size}': lines.order, f'inverse_{size}': lines.step}
            stored = torch.from_numpy(arrays[f'in_merge_{size}'])  # (4, 2, L), each in the order of its direction
            named[f'merge_{size}'] = sum(y[:, step] for y, step in zip(stored, lines.step, strict=True))
        return named

    return Subject(None, {}, run)


BUILDERS = {
    'plain_mamba': build_plain_mamba,
    'vim': build_vim,
    'plain_mamba_mixer': build_plain_mamba_mixer,
    'vim_mixer': build_vim_mixer,
    'ms_deform_attn': build_ms_deform_attn,
    'plain_mamba_scan_orders': build_plain_mamba_scan_orders,
    'ss2d': build_ss2d,
    'vss_block': build_vss_block,
    'vmamba': build_vmamba,
    'vmamba_patch_embed': build_vmamba_patch_embed,
    'vmamba_downsample': build_vmamba_downsample,
    'vmamba_scan_orders': build_vmamba_scan_orders,
}
