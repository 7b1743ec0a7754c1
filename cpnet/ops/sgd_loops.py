"""The CPU's loop of the update rule; sgd.py has the formula, and sgd.cu is the same for a GPU."""
from data.compiled import compiled


@compiled
def sgd_update(w, v, gradient, momentum, rate, shrink):
    for i in range(len(w)):
        v[i] = momentum * v[i] - shrink * w[i] - rate * gradient[i]
        w[i] += v[i]
