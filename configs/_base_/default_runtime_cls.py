# Classification is built by mmpretrain.
_base_ = './default_runtime.py'

default_scope = 'mmpretrain'
visualizer = dict(type='UniversalVisualizer')
