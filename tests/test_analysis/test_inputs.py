from __future__ import annotations

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmssmprune.models  # noqa: F401  (registers the backbones)
from mmssmprune.analysis.cost.flops import count_flops
from mmssmprune.analysis.full_proposals import full_proposals
from mmssmprune.analysis.inputs import count_proposals, noise_image, prepare_inputs

MIXER = {'d_state': 4, 'expand': 1, 'conv_size': 3}
ARCH = {'embed_dims': 16, 'num_layers': 2, 'num_convs': 1, 'layers_with_dwconv': [], 'mixer_cfg': MIXER}
BACKBONE = {'type': 'PlainMamba', 'arch': ARCH, 'img_size': 64, 'out_indices': (1,)}
ANCHORS = {'type': 'AnchorGenerator', 'scales': [2], 'ratios': [1.0], 'strides': [16]}
PROPOSALS, FC, POOLED, CHANNELS = 12, 10, 3, 8
NMS = {'type': 'nms', 'iou_threshold': 0.7}
FASTER_RCNN = {
    'type': 'FasterRCNN',
    'data_preprocessor': {'type': 'DetDataPreprocessor', 'pad_size_divisor': 32},
    'backbone': BACKBONE,
    'neck': {'type': 'ChannelMapper', 'in_channels': [16], 'kernel_size': 1, 'out_channels': CHANNELS},
    'rpn_head': {
        'type': 'RPNHead',
        'in_channels': CHANNELS,
        'feat_channels': CHANNELS,
        'anchor_generator': ANCHORS,
        'bbox_coder': {'type': 'DeltaXYWHBBoxCoder'},
    },
    'roi_head': {
        'type': 'StandardRoIHead',
        'bbox_roi_extractor': {
            'type': 'SingleRoIExtractor',
            'roi_layer': {'type': 'RoIAlign', 'output_size': POOLED},
            'out_channels': CHANNELS,
            'featmap_strides': [16],
        },
        'bbox_head': {
            'type': 'Shared2FCBBoxHead',
            'in_channels': CHANNELS,
            'fc_out_channels': FC,
            'roi_feat_size': POOLED,
            'num_classes': 2,
            'bbox_coder': {'type': 'DeltaXYWHBBoxCoder'},
        },
    },
    'train_cfg': None,
    'test_cfg': {
        'rpn': {'nms_pre': 50, 'max_per_img': PROPOSALS, 'nms': NMS, 'min_bbox_size': 0},
        'rcnn': {'score_thr': 0.05, 'nms': NMS, 'max_per_img': 5},
    },
}
SEGMENTOR = {
    'type': 'EncoderDecoder',
    'data_preprocessor': {'type': 'SegDataPreProcessor', 'mean': [1.0] * 3, 'std': [2.0] * 3, 'size': (64, 64)},
    'backbone': BACKBONE,
    'decode_head': {'type': 'FCNHead', 'in_channels': 16, 'channels': 8, 'num_convs': 1, 'num_classes': 3},
    'test_cfg': {'mode': 'whole'},
}
CLASSIFIER = {
    'type': 'ImageClassifier',
    'data_preprocessor': {'mean': [1.0] * 3, 'std': [2.0] * 3, 'to_rgb': True},
    'backbone': {**BACKBONE, 'out_type': 'avg_featmap'},
    'head': {'type': 'LinearClsHead', 'num_classes': 5, 'in_channels': 16},
}


def build(config: dict, scope: str) -> nn.Module:
    init_default_scope(scope)
    return MODELS.build(ConfigDict(config)).eval()


@pytest.fixture(scope='module')
def detector() -> nn.Module:
    return build(FASTER_RCNN, 'mmdet')


@pytest.fixture(scope='module')
def segmentor() -> nn.Module:
    return build(SEGMENTOR, 'mmseg')


def test_detector_inputs_are_resized_and_padded(detector: nn.Module):
    inputs = prepare_inputs(detector, noise_image((40, 50)), (70, 96))
    assert tuple(inputs['inputs'].shape) == (1, 3, 96, 96)
    assert inputs['data_samples'][0].img_shape == (70, 96)
    assert inputs['data_samples'][0].batch_input_shape == (96, 96)


def test_segmentor_inputs_are_normalised_and_keep_their_size(segmentor: nn.Module):
    image = noise_image((48, 80))
    inputs = prepare_inputs(segmentor, image)
    torch.testing.assert_close(inputs['inputs'][0], (image.float() - 1) / 2)
    assert inputs['data_samples'][0].ori_shape == (48, 80)


@pytest.mark.parametrize('mode', ['tensor', 'predict'])
def test_models_take_the_inputs(detector: nn.Module, segmentor: nn.Module, mode: str):
    for model in (detector, segmentor):
        with torch.no_grad():
            assert len(model(**prepare_inputs(model, noise_image((64, 96))), mode=mode)) > 0


def test_classifier_takes_the_inputs():
    pytest.importorskip('mmpretrain')
    classifier = build(CLASSIFIER, 'mmpretrain')
    image = noise_image((48, 64))
    inputs = prepare_inputs(classifier, image, (64, 64))
    assert inputs['inputs'].shape == (1, 3, 64, 64)
    torch.testing.assert_close(prepare_inputs(classifier, image)['inputs'][0], (image.flip(0).float() - 1) / 2)
    with torch.no_grad():
        assert classifier(**inputs, mode='tensor').shape == (1, 5)
        (sample,) = classifier(**inputs, mode='predict')
    assert sample.pred_score.shape == (5,)
    counts = count_flops(classifier, lambda: classifier(**inputs, mode='tensor'))
    assert counts.heads == 16 * 5
    assert counts.neck == 0 < counts.backbone


def test_a_bare_backbone_is_refused(segmentor: nn.Module):
    with pytest.raises(TypeError, match='neither an mmdet detector, nor an mmseg segmentor, nor an mmpretrain class'):
        prepare_inputs(segmentor.backbone, noise_image((64, 64)))


def test_noise_is_seeded():
    assert torch.equal(noise_image((5, 7)), noise_image((5, 7)))
    assert not torch.equal(noise_image((5, 7)), noise_image((5, 7), seed=1))


def count_detector(model: nn.Module, image: torch.Tensor):
    inputs = prepare_inputs(model, image)
    with full_proposals(model):
        return count_flops(model, lambda: model(**inputs, mode='tensor'))


def test_roi_heads_are_counted_at_the_maximum_of_proposals(detector: nn.Module):
    counts = [count_detector(detector, noise_image((64, 96), seed)) for seed in (0, 1)]
    with torch.no_grad():
        other = build(FASTER_RCNN, 'mmdet')
        for parameter in other.rpn_head.parameters():
            parameter.normal_(std=3.0)
    counts.append(count_detector(other, noise_image((64, 96))))
    assert counts[0].total == counts[1].total == counts[2].total
    per_roi = CHANNELS * POOLED**2 * FC + FC * FC + FC * (3 + 4 * 2)
    cells = 4 * 6
    rpn = cells * (CHANNELS * CHANNELS * 9 + CHANNELS * (1 + 4))
    assert counts[0].heads == rpn + PROPOSALS * per_roi
    assert counts[0].neck == cells * 16 * CHANNELS
    assert counts[0].unsupported == {'mmcv.roi_align_forward': 1}


@pytest.mark.parametrize('min_bbox_size', [0, 10_000])
def test_proposals_are_filled_up_even_from_none(detector: nn.Module, min_bbox_size: int):
    inputs = prepare_inputs(detector, noise_image((64, 96)))
    features = detector.extract_feat(inputs['inputs'])
    samples = inputs['data_samples']
    detector.test_cfg.rpn.min_bbox_size = detector.rpn_head.test_cfg.min_bbox_size = min_bbox_size
    with torch.no_grad(), full_proposals(detector):
        (filled,) = detector.rpn_head.predict(features, samples, rescale=False)
    (found,) = detector.rpn_head.predict(features, samples, rescale=False)
    detector.test_cfg.rpn.min_bbox_size = detector.rpn_head.test_cfg.min_bbox_size = 0
    assert len(filled.bboxes) == PROPOSALS == count_proposals(detector)
    assert (len(found.bboxes) == 0) == (min_bbox_size > 0)
    wanted = found.bboxes if len(found.bboxes) else torch.tensor([[0.0, 0.0, 96.0, 64.0]])
    assert {tuple(box) for box in filled.bboxes.tolist()} <= {tuple(box) for box in wanted.tolist()}


def test_models_without_proposals_pass_unchanged(segmentor: nn.Module):
    assert count_proposals(segmentor) is None
    with full_proposals(segmentor):
        pass
