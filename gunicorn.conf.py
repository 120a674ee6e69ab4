"""Read by gunicorn where it is started by hand: `gunicorn 'service.app:create_app()'` runs as `python -m service serve` does.

What stands on gunicorn's command line wins.
"""

from service.server import for_gunicorn

globals().update(for_gunicorn())
