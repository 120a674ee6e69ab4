"""Steps of the path from picture to label that are in C where a compiler was there (`build`): to Pillow's bits, faster."""
