"""Models: encoder, network, training, distillation, baselines, explanation and export."""
