"""What tests share: each module has one job."""
