# MiniStack with what it needs to start containers; `emulator_containers.py` builds and runs it.
FROM python:3.11.14-slim-bookworm
COPY emulator-requirements.txt .
RUN pip install --no-cache-dir --requirement emulator-requirements.txt
CMD ["python", "-m", "ministack"]
