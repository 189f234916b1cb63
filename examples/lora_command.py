"""A causal language model with LoRA adapters, federated by the command line. Needs: pip install 'fewbits[peft]'.

cd examples; fewbits train --model lora_command:model --data lora_command:data --optimizer adamw@lr=0.01 --out runs/lora
"""

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel


def model():
    sizes = {"vocab_size": 128, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    base = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    return get_peft_model(base, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))


def data():
    text = "the cat sat on the mat, and the dog on the log; so they sat all day. " * 64
    rows = torch.tensor([ord(letter) for letter in text])[: 144 * 30].view(144, 30)
    *clients, test = [{"input_ids": part, "labels": part} for part in rows.split(16)]
    return clients, test
