"""Running a network: one module per execution provider behind one interface, and the choice between them.

`session` holds the interface. `selection` picks a provider and a precision. `cpu`, `openvino` and `cuda` each know their own
provider's options, and nothing of each other. Nothing here knows pictures, queues or HTTP.
"""
