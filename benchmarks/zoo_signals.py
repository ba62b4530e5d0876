"""Hugging Face families for video, sound and time series."""

from __future__ import annotations

import torch
from zoo_hf import AUDIO, BART, NEXT, SMALL, VISION, ids
from zoo_rows import Row, noise

CLIP = {"num_frames": 4, "tubelet_size": 2}

VIDEO: list[Row] = [
    (
        "VideoMAEForVideoClassification",
        "VideoMAEConfig",
        {**VISION, **CLIP},
        {"pixel_values": noise(2, 4, 3, 32, 32)},
        None,
    ),
    (
        "TimesformerForVideoClassification",
        "TimesformerConfig",
        {**VISION, "num_frames": 4},
        {"pixel_values": noise(2, 4, 3, 32, 32)},
        None,
    ),
    (
        "VivitForVideoClassification",
        "VivitConfig",
        {**VISION, "num_frames": 4, "tubelet_size": [2, 8, 8]},
        {"pixel_values": noise(2, 4, 3, 32, 32)},
        None,
    ),
    (
        "VJEPA2ForVideoClassification",
        "VJEPA2Config",
        {
            **{"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2, "patch_size": 8, "crop_size": 32},
            **{"frames_per_clip": 4, "tubelet_size": 2, "pred_hidden_size": 48, "pred_num_attention_heads": 4},
            **{"pred_num_hidden_layers": 1, "num_pooler_layers": 1},
        },
        {"pixel_values_videos": noise(2, 4, 3, 32, 32)},
        None,
    ),
]

CONFORMER = {**AUDIO, "feature_projection_input_dim": 16, "conv_depthwise_kernel_size": 7}

SOUND: list[Row] = [
    (
        "Wav2Vec2BertForSequenceClassification",
        "Wav2Vec2BertConfig",
        CONFORMER,
        {"input_features": noise(2, 24, 16)},
        None,
    ),
    (
        "Wav2Vec2ConformerForSequenceClassification",
        "Wav2Vec2ConformerConfig",
        CONFORMER,
        {"input_values": noise(2, 800)},
        None,
    ),
    ("Data2VecAudioForSequenceClassification", "Data2VecAudioConfig", AUDIO, {"input_values": noise(2, 800)}, None),
    (
        "WhisperForAudioClassification",
        "WhisperConfig",
        {**BART, "num_mel_bins": 80, "max_source_positions": 1500, "classifier_proj_size": 16},
        {"input_features": noise(1, 80, 3000)},
        None,
    ),
    (
        "MoonshineForConditionalGeneration",
        "MoonshineConfig",
        {
            **{k: v for k, v in SMALL.items() if k not in {"num_hidden_layers", "num_attention_heads"}},
            **{"encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2},
            **{"encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4},
            **{"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
        },
        {"input_values": noise(2, 4000), "decoder_input_ids": ids},
        NEXT,
    ),
    (
        "EncodecModel",
        "EncodecConfig",
        {
            **{"num_filters": 4, "hidden_size": 16, "upsampling_ratios": [4, 2], "num_lstm_layers": 1},
            **{"codebook_size": 16, "codebook_dim": 16, "target_bandwidths": [3.0], "sampling_rate": 1600},
        },
        {"input_values": noise(2, 1, 128)},
        (0, 40),
    ),
    (
        "DacModel",
        "DacConfig",
        {
            **{"encoder_hidden_size": 8, "downsampling_ratios": [2, 4], "decoder_hidden_size": 32, "hidden_size": 32},
            **{"n_codebooks": 2, "codebook_size": 16, "codebook_dim": 4, "upsampling_ratios": [4, 2]},
        },
        {"input_values": noise(2, 1, 128)},
        (40,),
        "audio_values",
    ),
    (
        "ClapModel",
        "ClapConfig",
        lambda: {
            "text_config": {**SMALL, "max_position_embeddings": 32},
            "audio_config": {
                **{"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2]},
                **{"spec_size": 64, "num_mel_bins": 16, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4]},
            },
            "projection_dim": 32,
        },
        {
            "input_ids": ids,
            "input_features": noise(2, 1, 64, 16),
            "is_longer": lambda: torch.zeros(2, 1, dtype=torch.bool),
        },
        0,
    ),
]

PATCHES = {
    **{"d_model": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "ffn_dim": 64, "context_length": 32},
    **{"patch_length": 8, "patch_stride": 8, "num_input_channels": 3, "prediction_length": 4},
}
STEPS = {
    **{"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2], "d_model": 16, "input_size": 1},
    **{"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_time_features": 1},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "scaling": "std"},
}

SERIES: list[Row] = [
    (
        "PatchTSTForClassification",
        "PatchTSTConfig",
        {**PATCHES, "num_targets": 5},
        {"past_values": noise(2, 32, 3)},
        None,
    ),
    ("PatchTSTForPrediction", "PatchTSTConfig", PATCHES, {"past_values": noise(2, 32, 3)}, (2, 1)),
    (
        "PatchTSMixerForPrediction",
        "PatchTSMixerConfig",
        {**PATCHES, "num_layers": 2},
        {"past_values": noise(2, 32, 3)},
        (2, 1),
    ),
    (
        "TimesFmModelForPrediction",
        "TimesFmConfig",
        {
            **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
            **{"head_dim": 8, "patch_length": 8, "context_length": 32, "horizon_length": 8},
        },
        {"past_values": noise(2, 32), "freq": lambda: torch.zeros(2, 1, dtype=torch.long)},
        (3,),
        "mean_predictions",
    ),
    (
        "InformerModel",
        "InformerConfig",
        STEPS,
        {
            "past_values": noise(2, 10),
            "past_time_features": noise(2, 10, 1),
            "past_observed_mask": lambda: torch.ones(2, 10),
            "future_values": noise(2, 4),
            "future_time_features": noise(2, 4, 1),
        },
        (3, 5),
    ),
    (
        "TimeSeriesTransformerModel",
        "TimeSeriesTransformerConfig",
        STEPS,
        {
            "past_values": noise(2, 10),
            "past_time_features": noise(2, 10, 1),
            "past_observed_mask": lambda: torch.ones(2, 10),
            "future_values": noise(2, 4),
            "future_time_features": noise(2, 4, 1),
        },
        (3, 5),
    ),
]
