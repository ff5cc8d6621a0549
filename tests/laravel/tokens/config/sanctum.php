<?php

return ['expiration' => env('SANCTUM_EXPIRATION')];
