mod kept;
mod random;
mod single_faults;
