# Never built: docs/recipes.md says what of it was tried, and how it is meant.
FROM python:3.12-slim
COPY --from=ghcr.io/astral-sh/uv:latest /uv /bin/uv
# rustc and a C compiler make the tokenizer's library; a C++ compiler is what torch compiles models with.
RUN apt-get update && apt-get install -y --no-install-recommends rustc g++ git && rm -rf /var/lib/apt/lists/*
WORKDIR /fledge
COPY . .
RUN uv sync --no-dev --no-cache
ENTRYPOINT ["uv", "run", "--no-sync", "fledge"]
