"""What the scripts of tools/benchmarks/ share. It needs torch alone, but for backbones, which need mmengine."""
