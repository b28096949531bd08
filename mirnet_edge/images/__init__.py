"""Images: the image contract of networks (`contract`) and image files (`files`)."""
