"""CUDA kernels, compiled at run time by NVRTC through cuda-core: no nvcc, no build step. Imported only when used."""
