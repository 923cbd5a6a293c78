create sequence lane_number;
