"""The peer's model: a GPT-2 style decoder in PyTorch, dense or with a mixture of experts in every layer.

Its one idea: what a careful PyTorch user would write for speed on a CPU, with the same mathematics as pyramoe: pre-norm blocks,
learned positions, biases, tied head, tanh GELU, packed qkv with F.scaled_dot_product_attention; experts in three forms (FORMS).
torch_train.py measures it.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

FORMS = ("loop", "sorted", "grouped")


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, cache=None, position=None):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:                                 # one token; cache (2, B, H, T, Dh), allocated once
            if isinstance(position, int):     # eager: read only the part that is filled
                cache[0][:, :, position], cache[1][:, :, position] = k[:, :, 0], v[:, :, 0]
                k, v, mask = cache[0][:, :, :position + 1], cache[1][:, :, :position + 1], None
            else:                             # compiled: fixed shapes, so the rest is masked
                cache[0].index_copy_(2, position, k)
                cache[1].index_copy_(2, position, v)
                k, v = cache[0], cache[1]
                mask = (torch.arange(k.shape[2]) <= position)[None, None, None, :]
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh")), None


class Moe(nn.Module):
    """Dropless, softmax gate, weight = raw probability. Returns y and the balance loss (a routing group = a sequence)."""

    def __init__(self, dim, hidden, experts, top_k, form):
        super().__init__()
        self.experts, self.top_k, self.form = experts, top_k, form
        self.router = nn.Linear(dim, experts, bias=False)
        if form in ("loop", "sorted"):        # a module an expert: gradients land in place, nothing to stack
            self.each = nn.ModuleList(Mlp(dim, hidden) for _ in range(experts))
        else:
            self.up = nn.Parameter(torch.empty(experts, dim, hidden))
            self.down = nn.Parameter(torch.empty(experts, hidden, dim))
            self.up_bias = nn.Parameter(torch.zeros(experts, hidden))
            self.down_bias = nn.Parameter(torch.zeros(experts, dim))

    def forward(self, x):
        b, t, d = x.shape
        p = self.router(x).softmax(-1)                                # (B, T, E)
        weight, chosen = p.topk(self.top_k, dim=-1)                   # (B, T, k)
        first = F.one_hot(chosen[..., 0], self.experts).to(p.dtype).mean(1)
        balance = (self.experts * (p.mean(1) * first).sum(-1)).mean()
        flat, chosen, weight = x.view(-1, d), chosen.view(-1), weight.view(-1, 1)
        y = self.run_experts(flat, chosen, weight)
        return y.view(b, t, d), balance

    # Row counts change with every batch: compiling this part means compiling again and again, so only the rest is compiled.
    @torch.compiler.disable
    def run_experts(self, x, chosen, weight):
        return self.loop(x, chosen, weight) if self.form == "loop" else self.by_expert(x, chosen, weight)

    def loop(self, x, chosen, weight):
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.each):
            rows = (chosen == e).nonzero().squeeze(1)
            if rows.numel():
                token = rows // self.top_k
                y = y.index_add(0, token, weight.index_select(0, rows) * expert(x.index_select(0, token))[0])
        return y

    def by_expert(self, x, chosen, weight):
        order = chosen.argsort(stable=True)
        token = order // self.top_k
        count = torch.bincount(chosen, minlength=self.experts)
        rows = x.index_select(0, token)                               # sorted by expert
        rows = getattr(self, self.form)(rows, chosen[order], count) * weight.index_select(0, order)
        return torch.zeros_like(x).index_add(0, token, rows)

    def sorted(self, rows, _, count):
        parts = torch.split(rows, count.tolist())
        return torch.cat([expert(part)[0] for expert, part in zip(self.each, parts) if part.shape[0]])

    def grouped(self, rows, expert, count):
        ends = count.cumsum(0).to(torch.int32)
        hidden = torch._grouped_mm(rows, self.up, offs=ends) + self.up_bias[expert]
        return torch._grouped_mm(F.gelu(hidden, approximate="tanh"), self.down, offs=ends) + self.down_bias[expert]


class Block(nn.Module):
    def __init__(self, args, form):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(args.dim), nn.LayerNorm(args.dim)
        self.attention = Attention(args.dim, args.heads)
        self.ffn = Moe(args.dim, 4 * args.dim, args.experts, args.top_k, form) if args.experts else Mlp(args.dim, 4 * args.dim)

    def forward(self, x, cache=None, position=None):
        x = x + self.attention(self.norm1(x), cache, position)
        y, balance = self.ffn(self.norm2(x))
        return x + y, balance


class Gpt(nn.Module):
    def __init__(self, args, form="sorted"):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(args.vocab, args.dim), nn.Embedding(args.context, args.dim)
        self.blocks = nn.ModuleList(Block(args, form) for _ in range(args.layers))
        self.norm = nn.LayerNorm(args.dim)
        for name, p in self.named_parameters():   # GPT-2's initialisation
            if p.dim() > 1 and "bias" not in name:
                last = name.endswith(("out.weight", "down.weight", "down"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * args.layers) if last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens, targets):
        """-> cross entropy + 0.01 * sum of balance losses"""
        x = self.tokens(tokens) + self.positions.weight[:tokens.shape[1]]
        balances = []
        for block in self.blocks:
            x, balance = block(x)
            balances += [] if balance is None else [balance]
        logits = F.linear(self.norm(x), self.tokens.weight)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
        return loss + 0.01 * sum(balances) if balances else loss

    def decode(self, token, caches, position):
        """token (B, 1), position int or (1) -> the next token, greedy (B, 1)"""
        where = self.positions.weight[position] if isinstance(position, int) else self.positions(position)
        x = self.tokens(token) + where
        for block, cache in zip(self.blocks, caches):
            x, _ = block(x, cache, position)
        return F.linear(self.norm(x[:, -1]), self.tokens.weight).argmax(-1, keepdim=True)


def gemm_flops_per_step(args):
    """Matrix products of one training step (forward 1, backward 2), attention's own two not counted."""
    ffn = 2 * args.dim * 4 * args.dim * (args.top_k if args.experts else 1) + args.dim * args.experts
    per_token = args.layers * (4 * args.dim ** 2 + ffn) + args.vocab * args.dim
    return 6 * per_token * args.batch * args.context
