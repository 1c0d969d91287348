"""The one place that knows checkpoints: read safely, written whole, matched by key, resumed from, and official layouts.

Backbones of `mmssmprune.models` are met through what they offer (``adapt_state``) and through mmengine's registry.
"""
