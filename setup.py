from setuptools import setup

setup(
    name="minidiff",
    version="0.1.0",
    description="A minimal, from-scratch, educational implementation of five text-to-image concept papers",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=["minidiff", "minidiff.toybox", "minidiff.weights"],
    package_dir={"minidiff.weights": "weights"},            # a plain install carries the shipped weights inside the package
    package_data={"minidiff.weights": ["toybox/*/*", "toybox/*.json"]},
    install_requires=["torch>=2.2", "einops", "numpy", "pillow", "tqdm", "safetensors"],
    extras_require={
        "test": ["pytest", "pytest-xdist"],
        "parity": ["diffusers", "transformers", "peft", "hypothesis"],
        "tutorials": ["jupyter"],
        "hub": ["huggingface_hub"],
        "vqa": ["transformers"],
    },
)
