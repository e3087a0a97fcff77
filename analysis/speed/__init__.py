"""Speed against quality: samples of many runs and samplers, fronts, and which family leads at which speed."""
