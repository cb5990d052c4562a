"""The app: sessions, capture and the tabs that show them. ``app.py`` beside this folder starts it."""
