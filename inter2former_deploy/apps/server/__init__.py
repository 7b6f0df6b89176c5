"""The server of `i2f serve` and `i2f annotate`: pictures and prompts in, masks out, for programs and for the page.

`app.create_app` makes it from `settings.Settings`. `service.Service` is what all routes call; it knows nothing of HTTP.
Without torch.
"""
